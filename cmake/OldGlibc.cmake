# use_old_glibc(TARGET): a shared library that is built on a system of any age and runs on one with glibc 2.28 or newer
# (manylinux_2_28). glibc moved threads, dlopen and shared memory into libc.so.6 with 2.34, under new versions, and a linker
# takes the newest version that it sees. So it is shown libraries of the old names, without code, that have these functions
# in their old version. Systems have both: the new ones keep the old version, and files of the old names. What is not to be
# had in an old version at all is in custom_ops/native/glibc.

set(_glibc_folder ${CMAKE_CURRENT_LIST_DIR}/../custom_ops/native/glibc)
set(_old_dl dladdr dlclose dlerror dlopen dlsym dlvsym)
# Their old versions are later ones; all others have that of the beginning.
set(_later_dl dladdr1 dlinfo dlmopen)
set(_versions_dl "GLIBC_2.3.3 { global: dladdr1; dlinfo; } GLIBC_2.2.5;\nGLIBC_2.3.4 { global: dlmopen; } GLIBC_2.3.3;\n")
set(_old_rt shm_open shm_unlink)
set(_old_pthread
    __pthread_key_create
    pthread_condattr_setpshared pthread_create pthread_detach pthread_getspecific pthread_join pthread_key_create
    pthread_key_delete pthread_kill pthread_mutex_trylock pthread_mutexattr_destroy pthread_mutexattr_init
    pthread_mutexattr_setpshared pthread_mutexattr_settype pthread_once pthread_rwlock_destroy pthread_rwlock_init
    pthread_rwlock_rdlock pthread_rwlock_timedrdlock pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock
    pthread_rwlock_trywrlock pthread_rwlock_unlock pthread_rwlock_wrlock pthread_rwlockattr_destroy pthread_rwlockattr_init
    pthread_rwlockattr_setpshared pthread_setspecific pthread_spin_destroy pthread_spin_init pthread_spin_lock
    pthread_spin_trylock pthread_spin_unlock sem_destroy sem_init sem_post sem_timedwait sem_trywait sem_wait)

include(CheckCXXSymbolExists)
check_cxx_symbol_exists(__GLIBC__ features.h ONNX_CBP_GLIBC)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND ONNX_CBP_GLIBC)
  set(_old_folder ${CMAKE_CURRENT_BINARY_DIR}/old-glibc)
  foreach(_library dl.so.2 rt.so.1 pthread.so.0)
    string(REGEX REPLACE "[.].*" "" _name ${_library})
    set(_code "")
    foreach(_function IN LISTS _old_${_name} _later_${_name})
      string(APPEND _code "extern \"C\" void ${_function}() {}\n")
    endforeach()
    list(JOIN _old_${_name} "; " _exported)
    file(CONFIGURE OUTPUT ${_old_folder}/${_name}.cc CONTENT "${_code}")
    file(CONFIGURE OUTPUT ${_old_folder}/${_name}.map CONTENT "GLIBC_2.2.5 { global: ${_exported}; local: *; };\n${_versions_${_name}}")
    add_library(old_${_name} SHARED EXCLUDE_FROM_ALL ${_old_folder}/${_name}.cc)
    target_compile_options(old_${_name} PRIVATE -w -fno-builtin)
    set_target_properties(
      old_${_name}
      PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${_old_folder}
                 SUFFIX ""
                 OUTPUT_NAME ${_library}
                 NO_SONAME TRUE
                 CXX_VISIBILITY_PRESET default)
    target_link_options(old_${_name} PRIVATE -nostdlib -Wl,-soname,lib${_library}
                                             -Wl,--version-script=${_old_folder}/${_name}.map)
  endforeach()
endif()

function(use_old_glibc target)
  if(NOT TARGET old_pthread)
    return()
  endif()
  # Compiled by itself: a target of CUDA sources has options that only nvcc knows.
  if(NOT TARGET newer_glibc)
    add_library(newer_glibc OBJECT EXCLUDE_FROM_ALL ${_glibc_folder}/newer_functions.cc)
    target_compile_features(newer_glibc PRIVATE cxx_std_17)
    set_target_properties(newer_glibc PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:newer_glibc>)
  # No path to these is noted in the library: at run time they are the system's.
  set_target_properties(${target} PROPERTIES SKIP_BUILD_RPATH TRUE)
  target_link_libraries(${target} PRIVATE -Wl,--push-state,--no-as-needed old_dl old_rt old_pthread -Wl,--pop-state)
endfunction()
