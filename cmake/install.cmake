# SPDX-License-Identifier: MIT
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/nibble)
install(TARGETS nibble EXPORT nibbleTargets FILE_SET HEADERS FILE_SET optional)
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION ${package_dir})
configure_package_config_file(cmake/nibbleConfig.cmake.in ${PROJECT_BINARY_DIR}/nibbleConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
# Before 1.0 each minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/nibbleConfig.cmake ${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  cmake/dispatch.cmake cmake/isa.cmake
  DESTINATION ${package_dir})
install(FILES cmake/dispatch/instance.cpp.in cmake/dispatch/choose.cpp.in DESTINATION ${package_dir}/dispatch)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
