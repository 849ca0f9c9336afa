find_package(PkgConfig REQUIRED)
