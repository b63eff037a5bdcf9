# Read by CMake right after `project()` of llama-cpp-python. Its CMakeLists.txt forces llama.cpp's `common` library into
# the cache, and nothing in the Python package loads it: a plain variable of the same name keeps it out of the build.
set(LLAMA_BUILD_COMMON OFF)
