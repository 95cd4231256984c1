# Each ../tests/c/test_NAME.c is one executable and one ctest of that name.
# They include pmaps.h and the engine's internal headers, and run in tests/c,
# so that recorded kernel files lying there are found by relative path.
set(tests_dir ${CMAKE_CURRENT_SOURCE_DIR}/../tests/c)
file(GLOB test_files CONFIGURE_DEPENDS ${tests_dir}/test_*.c)

foreach(test_file IN LISTS test_files)
  cmake_path(GET test_file STEM name)
  add_executable(${name} ${test_file})
  target_link_libraries(${name} PRIVATE engine)
  target_compile_options(${name} PRIVATE ${PMAPS_WARNINGS})
  set_target_properties(${name} PROPERTIES C_STANDARD 11 C_EXTENSIONS ON)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${tests_dir})
  # A capture that hangs on a /proc file must not hold up CI.
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endforeach()

# As it is built here, sanitizers and all.
target_compile_definitions(test_tracer PRIVATE PMAPS_TRACER="$<TARGET_FILE:pmaps-tracer>")
add_dependencies(test_tracer pmaps-tracer)
