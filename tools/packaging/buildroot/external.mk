include $(sort $(wildcard $(BR2_EXTERNAL_FALLGATE_PATH)/package/*/*.mk))
