# Flags and the three kinds of target that every folder uses.

add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
                    -Wold-style-cast -Woverloaded-virtual -Wnull-dereference -Wduplicated-cond)
# GCC 12 reports these two wrongly inside its own library headers at -O2 and above.
add_compile_options(-Wno-null-dereference -Wno-restrict)
if(TIDEPOOL_WERROR)
  add_compile_options(-Werror)
endif()
# -fno-plt and a full RELRO link: the daemon runs with capabilities.
add_link_options(-Wl,-z,relro,-z,now)
if(CMAKE_UNITY_BUILD)
  # Source files that are joined make types of anonymous namespaces look included.
  add_compile_options(-Wno-subobject-linkage)
endif()
if(TIDEPOOL_SANITIZE)
  # Instrumented code hides from GCC that a value was set; the release build keeps this warning.
  add_compile_options(-Wno-maybe-uninitialized)
  # Nor does it see through Asio's allocation of coroutines; the address sanitizer looks at every pair itself.
  add_compile_options(-Wno-mismatched-new-delete)
endif()
if(TIDEPOOL_SANITIZE STREQUAL "address")
  # The check of vtables asks the kernel through a pipe whether memory is there: a program that is out of descriptors,
  # which tests bring about, would be taken for wrong.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined -fno-sanitize=vptr)
elseif(TIDEPOOL_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  # Asio has fences, which this sanitizer does not follow; our own code has none.
  add_compile_options(-Wno-tsan)
  add_link_options(-fsanitize=thread)
elseif(CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  add_compile_definitions(_FORTIFY_SOURCE=2)
endif()

# tidepool_library(NAME sources... DEPENDS libs...): a static library of one folder.
function(tidepool_library name)
  cmake_parse_arguments(arg "" "" "DEPENDS" ${ARGN})
  add_library(${name} STATIC ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC ${arg_DEPENDS})
endfunction()

# tidepool_program(NAME sources... DEPENDS libs...): an installed program, placed in build/bin.
function(tidepool_program name)
  cmake_parse_arguments(arg "" "" "DEPENDS" ${ARGN})
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()

# tidepool_test(NAME LABEL unit|integration|vm|chaos sources... DEPENDS libs...): one GoogleTest binary, one ctest entry.
function(tidepool_test name)
  cmake_parse_arguments(arg "" "LABEL;TIMEOUT" "DEPENDS;RUNNER" ${ARGN})
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE TIDEPOOL_BINARY_DIR="${CMAKE_BINARY_DIR}" TIDEPOOL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${arg_RUNNER} $<TARGET_FILE:${name}>)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABEL}" TIMEOUT ${arg_TIMEOUT})
  # Integration tests share the machine's memory and cores with nobody else: a timing-free test still needs progress.
  if(arg_LABEL STREQUAL "integration" OR arg_LABEL STREQUAL "chaos" OR arg_LABEL STREQUAL "vm")
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
endfunction()

# tidepool_vm_test(NAME sources... DEPENDS libs...): a GoogleTest binary that runs inside the VM rig (tests/vm/run), in the
# release build only: the rig's software processor is slow enough without a sanitizer.
function(tidepool_vm_test name)
  if(NOT TIDEPOOL_SANITIZE)
    tidepool_test(${name} ${ARGN} LABEL vm RUNNER ${PROJECT_SOURCE_DIR}/tests/vm/run --)
    # A machine keeps less than one core busy: two of them share the host well.
    set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 RUN_SERIAL OFF)
    add_dependencies(${name} vm-init)
  endif()
endfunction()
