# Read by llama-cpp-python's CMakeLists.txt behind its project(): a normal variable goes before the cache entry that it
# forces. The package ships none of llama.cpp's common library, whose compilation takes as long as the engine's.
set(LLAMA_BUILD_COMMON OFF)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-include${CMAKE_CURRENT_LIST_DIR}/tile_config.h>")
endif()
