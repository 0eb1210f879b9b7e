# Read by llama-cpp-python's CMakeLists.txt behind its project(): a normal variable goes before the cache entry that it
# forces. The package ships none of llama.cpp's common library, whose compilation takes as long as the engine's.
set(LLAMA_BUILD_COMMON OFF)
# Without AMX, which ends llama.cpp's process by SIGILL: docs/decisions/llama-settings.md.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mno-amx-int8 PAIRGRADE_HAS_AMX)
if(PAIRGRADE_HAS_AMX)
    add_compile_options(-mno-amx-int8)
endif()
