# The CUDA compiler and toolkit, for builds with ONGGI_CUDA.

# Plain numbers are Ampere's and Ada's; 90a is Hopper with its own instructions (wgmma, TMA). The virtual 80 lets
# younger GPUs compile for themselves.
set(ONGGI_CUDA_ARCHITECTURES "80;86-real;89-real;90a-real" CACHE STRING
    "GPU architectures to compile for, as CMake's CUDA_ARCHITECTURES; one alone builds faster, e.g. 90a-real")

if(NOT CMAKE_CUDA_COMPILER)
  # The toolkit's packages do not put it into the PATH.
  find_program(ONGGI_NVCC nvcc HINTS /usr/local/cuda/bin /opt/cuda/bin REQUIRED)
  set(CMAKE_CUDA_COMPILER ${ONGGI_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES ${ONGGI_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old: Onggi needs the CUDA toolkit 12.4 or newer")
endif()
find_package(CUDAToolkit REQUIRED)

# CMake 3.25 does not know yet how nvcc is asked for C++20 (CUDA's standard is CMAKE_CXX_STANDARD by default).
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA_FLAGS_RELEASE "-O2 -DNDEBUG")
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
list(JOIN host_options "," host_options_of_nvcc)
# --expt-relaxed-constexpr: constexpr functions (philox, the number formats) run on the device too.
# -lineinfo: profilers and compute-sanitizer name the source line; it costs no speed.
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;--expt-relaxed-constexpr;-Xcompiler=${host_options_of_nvcc}>")
