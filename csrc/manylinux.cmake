# Links libeft and the module for Linux with an older glibc than this machine's: 2.24, where torch's own wheels need 2.28.

# glibc 2.34 moved these into libc, and 2.29 changed three of libm, under new versions of their symbols. Every glibc
# still has the old versions, which the linker finds in libraries that hold nothing but names.
set(EFT_OLD_pthread.so.0 pthread_condattr_setpshared pthread_create pthread_detach pthread_getspecific pthread_join
    pthread_key_create pthread_key_delete pthread_kill pthread_mutex_trylock pthread_mutexattr_destroy pthread_mutexattr_init
    pthread_mutexattr_setpshared pthread_mutexattr_settype pthread_once pthread_rwlock_destroy pthread_rwlock_init
    pthread_rwlock_rdlock pthread_rwlock_timedrdlock pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock
    pthread_rwlock_trywrlock pthread_rwlock_unlock pthread_rwlock_wrlock pthread_rwlockattr_destroy pthread_rwlockattr_init
    pthread_rwlockattr_setpshared pthread_setspecific pthread_spin_destroy pthread_spin_init pthread_spin_lock
    pthread_spin_trylock pthread_spin_unlock sem_destroy sem_init sem_post sem_timedwait sem_trywait sem_wait)
set(EFT_OLD_dl.so.2 dladdr dlclose dlerror dlmopen dlopen dlsym dlvsym)
set(EFT_OLD_rt.so.1 shm_open shm_unlink)
set(EFT_OLD_m.so.6 exp log log2)

set(folder ${CMAKE_BINARY_DIR}/manylinux)
file(WRITE ${folder}/versions "GLIBC_2.2.5 { *; };\nGLIBC_2.3.4 { dlmopen; };\n")
# std::shared_ptr asks glibc 2.32 if there is one thread only. There never is.
file(WRITE ${folder}/threads.cpp
     "extern \"C\" { __attribute__((visibility(\"hidden\"))) char __libc_single_threaded = 0; }\n")

foreach(name pthread.so.0 dl.so.2 rt.so.1 m.so.6)
  list(TRANSFORM EFT_OLD_${name} REPLACE "(.+)" "void \\1() {}" OUTPUT_VARIABLE functions)
  list(JOIN functions "\n" functions)
  file(WRITE ${folder}/${name}.cpp "extern \"C\" {\n${functions}\n}\n")
  add_library(old_${name} SHARED ${folder}/${name}.cpp)
  set_target_properties(old_${name} PROPERTIES NO_SONAME ON CXX_VISIBILITY_PRESET default LIBRARY_OUTPUT_DIRECTORY ${folder})
  target_compile_options(old_${name} PRIVATE -fno-builtin)
  target_link_options(old_${name} PRIVATE -nostdlib -Wl,-soname,lib${name} -Wl,--version-script,${folder}/versions)
endforeach()

function(eft_link_old target)
  target_sources(${target} PRIVATE ${folder}/threads.cpp)
  target_link_options(${target} PRIVATE -static-libstdc++ -s -Wl,--exclude-libs,ALL,--gc-sections,--no-as-needed)
  foreach(name ${ARGN})
    add_dependencies(${target} old_${name})
    # By path: the folder of a library that is linked as such would become part of the RPATH.
    target_link_options(${target} PRIVATE $<TARGET_FILE:old_${name}>)
  endforeach()
  target_link_options(${target} PRIVATE -Wl,--as-needed)
endfunction()
if(NOT EFT_LIBRARY)
  eft_link_old(eft pthread.so.0 dl.so.2 rt.so.1 m.so.6)
endif()
if(EFT_PYTHON)
  eft_link_old(_native dl.so.2)
endif()
