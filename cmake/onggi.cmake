# Settings shared by every target, and the two functions with which folders declare themselves.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# -O2 with vectorisation: hot kernels choose their own instruction set at run time, so nothing here may ask
# for more than the x86-64 baseline.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -ftree-vectorize -DNDEBUG")
# Options of the host's compiler; nvcc hands them on (cmake/cuda.cmake).
set(host_options -Wall -Wextra -Werror -fno-math-errno)
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:${host_options}>")
if(ONGGI_SANITIZE)
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${ONGGI_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  # GCC sees uninitialised values where a sanitizer has rewritten the standard library's code (std::regex).
  add_compile_options("$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-error=maybe-uninitialized>")
  add_link_options(-fsanitize=${ONGGI_SANITIZE})
endif()
if(ONGGI_FUZZ)
  # Coverage for the parsers; each target then adds libFuzzer's main.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(CURL REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

# onggi_library(NAME [EXCLUDE files...] [LINKS targets...])
#
# Declares the library of the current folder from all its .cc and .cu files but those of EXCLUDE. LINKS are exactly the folders and outside
# libraries that it may include (DESIGN: "who may include whom"; tools/check_layers tests the includes).
function(onggi_library name)
  cmake_parse_arguments(ARG "" "" "EXCLUDE;LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *.cc *.cu)
  list(REMOVE_ITEM sources ${ARG_EXCLUDE})
  if(NOT sources)
    add_library(onggi_${name} INTERFACE)
    target_include_directories(onggi_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(onggi_${name} INTERFACE ${ARG_LINKS})
    return()
  endif()
  add_library(onggi_${name} STATIC ${sources})
  target_include_directories(onggi_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(onggi_${name} PUBLIC ${ARG_LINKS})
endfunction()

# onggi_tests(NAME [LINKS targets...])
#
# Builds all *_test.cc of the current folder into one GoogleTest program, test_NAME, run by CTest with the
# repository root as the working folder.
function(onggi_tests name)
  cmake_parse_arguments(ARG "" "" "LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(test_${name} PRIVATE ${ARG_LINKS} GTest::gtest_main GTest::gmock)
  add_test(NAME ${name} COMMAND test_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
endfunction()

# onggi_fuzz(NAME SOURCE [LINKS targets...])
#
# A libFuzzer target, fuzz_NAME; built by the fuzz preset only.
function(onggi_fuzz name source)
  if(NOT ONGGI_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LINKS" ${ARGN})
  add_executable(fuzz_${name} ${source})
  target_link_libraries(fuzz_${name} PRIVATE ${ARG_LINKS})
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
endfunction()

# onggi_cuda_sources_as_cxx(FILES...)
#
# Has the host's compiler compile the .cu files of this folder's targets: for tests/cuda_emulator.
function(onggi_cuda_sources_as_cxx)
  set(sources ${ARGN})
  list(FILTER sources INCLUDE REGEX "\\.cu$")
  if(sources)
    set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  endif()
endfunction()
