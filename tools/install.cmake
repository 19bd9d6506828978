# What `cmake --install` puts where: the program (tools/CMakeLists.txt), libcoppice.so, its headers, a CMake package and
# a pkg-config file.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
install(TARGETS coppice_library EXPORT coppice LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${PROJECT_SOURCE_DIR}/include/coppice/coppice.h ${PROJECT_SOURCE_DIR}/include/coppice/coppice.hpp
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/coppice)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/coppice)
install(EXPORT coppice NAMESPACE coppice:: FILE coppiceConfig.cmake DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/coppiceConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/coppiceConfigVersion.cmake DESTINATION ${package_folder})
configure_file(${CMAKE_CURRENT_LIST_DIR}/coppice.pc.in ${PROJECT_BINARY_DIR}/coppice.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/coppice.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/tools/recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/coppice)
