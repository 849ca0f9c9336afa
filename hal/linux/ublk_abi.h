/* What the kernel's ublk driver understands and linux/ublk_cmd.h of older kernels (6.1) does not name yet. The structs are the
 * same in all of them: their sizes are checked here. */
#ifndef HAL_LINUX_UBLK_ABI_H
#define HAL_LINUX_UBLK_ABI_H

#include <linux/ioctl.h>
#include <linux/ublk_cmd.h>

#define ABI_INFO       _IOR('u', UBLK_CMD_GET_DEV_INFO, struct ublksrv_ctrl_cmd)
#define ABI_ADD        _IOWR('u', UBLK_CMD_ADD_DEV, struct ublksrv_ctrl_cmd)
#define ABI_DELETE     _IOR('u', 0x14, struct ublksrv_ctrl_cmd) /* DEL_DEV_ASYNC: waits for nobody who has it open */
#define ABI_START      _IOWR('u', UBLK_CMD_START_DEV, struct ublksrv_ctrl_cmd)
#define ABI_STOP       _IOWR('u', UBLK_CMD_STOP_DEV, struct ublksrv_ctrl_cmd)
#define ABI_PARAMETERS _IOWR('u', UBLK_CMD_SET_PARAMS, struct ublksrv_ctrl_cmd)
#define ABI_RENEW      _IOWR('u', UBLK_CMD_START_USER_RECOVERY, struct ublksrv_ctrl_cmd)
#define ABI_GO_ON      _IOWR('u', UBLK_CMD_END_USER_RECOVERY, struct ublksrv_ctrl_cmd)
#define ABI_FETCH      _IOWR('u', UBLK_IO_FETCH_REQ, struct ublksrv_io_cmd)
#define ABI_COMMIT     _IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublksrv_io_cmd)

enum {
	ABI_F_RECOVER = 1 << 3,
	ABI_F_REISSUE = 1 << 4,
	ABI_F_IOCTL_ENCODE = 1 << 6,
	ABI_F_USER_COPY = 1 << 7,
};

/* Where a request's data is in the char device: queue, tag and byte are one position. */
#define ABI_DATA_AT     ((uint64_t)UBLKSRV_IO_BUF_OFFSET)
#define ABI_TAG_SHIFT   25
#define ABI_QUEUE_SHIFT 41

_Static_assert(sizeof(struct ublksrv_ctrl_cmd) == 32, "the kernel's");
_Static_assert(sizeof(struct ublksrv_ctrl_dev_info) == 64, "the kernel's");
_Static_assert(sizeof(struct ublksrv_io_desc) == 24, "the kernel's");
_Static_assert(sizeof(struct ublksrv_io_cmd) == 16, "the kernel's");

#endif
