set(BOARD dev_host CACHE STRING "A folder of boards/")
