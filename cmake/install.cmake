# SPDX-License-Identifier: MIT
include(CMakePackageConfigHelpers)

install(TARGETS nibble EXPORT nibbleTargets FILE_SET HEADERS)
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/nibble)
configure_package_config_file(cmake/nibbleConfig.cmake.in ${PROJECT_BINARY_DIR}/nibbleConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/nibble
  NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
# Before 1.0 every minor version may break the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/nibbleConfig.cmake ${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/nibble)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
