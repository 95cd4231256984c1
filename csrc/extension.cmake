# pytest_pmaps._engine: pmaps.h as cffi sees it, over the engine's objects.

# Only Linux comes here, and only CPython: elsewhere pyproject.toml turns CMake off.
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module
             ${SKBUILD_SABI_COMPONENT})

set(cdef ${CMAKE_CURRENT_BINARY_DIR}/cdef.h)
set(prelude ${CMAKE_CURRENT_BINARY_DIR}/prelude.h)
set(generated ${CMAKE_CURRENT_BINARY_DIR}/_engine.c)

file(CONFIGURE OUTPUT ${prelude} CONTENT "#include \"pmaps.h\"\n")

add_custom_command(
  OUTPUT ${cdef}
  COMMAND Python::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/make_cdef.py
          ${CMAKE_CURRENT_SOURCE_DIR}/pmaps.h ${cdef}
  DEPENDS pmaps.h make_cdef.py
  VERBATIM
)
add_custom_command(
  OUTPUT ${generated}
  COMMAND Python::Interpreter -m cffi.gen_src read-sources
          pytest_pmaps._engine ${cdef} ${prelude} ${generated}
  DEPENDS ${cdef} ${prelude}
  VERBATIM
)

if(SKBUILD_SABI_VERSION)
  python_add_library(_engine MODULE WITH_SOABI USE_SABI ${SKBUILD_SABI_VERSION} ${generated})
else()
  # Free-threaded Python has no stable ABI; without this cffi asks for it all the same.
  python_add_library(_engine MODULE WITH_SOABI ${generated})
  target_compile_definitions(_engine PRIVATE _CFFI_NO_LIMITED_API)
endif()

target_link_libraries(_engine PRIVATE engine)
# PM_API marks the engine's functions as visible, which is right for a shared library of its own.
# In here nothing but Python's entry point may be seen, or another extension's pm_* could be ours.
set(exports ${CMAKE_CURRENT_SOURCE_DIR}/extension.map)
target_link_options(_engine PRIVATE LINKER:--version-script=${exports})
set_target_properties(_engine PROPERTIES C_VISIBILITY_PRESET hidden LINK_DEPENDS ${exports})

install(TARGETS _engine LIBRARY DESTINATION pytest_pmaps)
install(TARGETS pmaps-tracer pmaps-follower pmaps-launch RUNTIME DESTINATION pytest_pmaps)
install(FILES pmaps_checkpoint.h DESTINATION pytest_pmaps/include)
