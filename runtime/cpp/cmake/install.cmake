# What `cmake --install` puts where: library, headers, and packages for find_package and pkg-config.
set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/wanrt")
install(TARGETS wanrt EXPORT wanrt
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/wanrt DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT wanrt NAMESPACE wanrt:: FILE wanrt-targets.cmake DESTINATION ${config_dir})

configure_package_config_file(cmake/wanrt-config.cmake.in wanrt-config.cmake
  INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(wanrt-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/wanrt-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/wanrt-config-version.cmake"
  cmake/FindOnnxRuntime.cmake
  cmake/FindTensorRT.cmake
  DESTINATION ${config_dir})

# A static library's users link what it was linked with.
get_filename_component(directory "${OPENSSL_CRYPTO_LIBRARY}" DIRECTORY)
set(private_libraries "${OPENSSL_CRYPTO_LIBRARY} -Wl,-rpath,${directory} -lstdc++ -pthread")
if(WANRT_TENSORRT AND NOT WANRT_FAKE_TENSORRT)
  foreach(library "${TensorRT_CUDA_LIBRARY}" "${TensorRT_LIBRARY}")
    get_filename_component(directory "${library}" DIRECTORY)
    string(PREPEND private_libraries "${library} -Wl,-rpath,${directory} ")
  endforeach()
endif()
if(WANRT_ONNXRUNTIME)
  get_filename_component(directory "${OnnxRuntime_LIBRARY}" DIRECTORY)
  string(PREPEND private_libraries "-L${directory} -Wl,-rpath,${directory} -lonnxruntime ")
endif()
set(public_libraries "")
if(NOT BUILD_SHARED_LIBS)
  set(public_libraries " ${private_libraries}")
endif()
file(RELATIVE_PATH to_prefix "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
configure_file(cmake/wanrt.pc.in wanrt.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/wanrt.pc"
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
