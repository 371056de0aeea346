// Keeps the addons loadable on older systems: glibc 2.28 and the libstdc++ of GCC 8 (GLIBCXX_3.4.25), which is what
// libtorch itself needs. A linker binds each function to its newest version, so what is compiled on a newer system asks
// for newer ones; of these few an older version, or a few lines, do as well. scripts/check-symbols.ts finds any other.
// Hidden: no other library sees these definitions.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define OLD(alias, name, version) __asm__(".symver " #alias ", " #name "@" version)

// 2.33: until then inline functions over these.
OLD(old_fxstat, __fxstat, "GLIBC_2.2.5");
OLD(old_xstat, __xstat, "GLIBC_2.2.5");
extern int old_fxstat(int version, int descriptor, struct stat* status);
extern int old_xstat(int version, const char* path, struct stat* status);
HIDDEN int fstat(int descriptor, struct stat* status) { return old_fxstat(1, descriptor, status); }
HIDDEN int stat(const char* path, struct stat* status) { return old_xstat(1, path, status); }

#ifdef LE_PRELOAD

// In libc since 2.34, in libdl before.
OLD(old_dlopen, dlopen, "GLIBC_2.2.5");
OLD(old_dlerror, dlerror, "GLIBC_2.2.5");
extern void* old_dlopen(const char* path, int mode);
extern char* old_dlerror(void);
HIDDEN void* dlopen(const char* path, int mode) { return old_dlopen(path, mode); }
HIDDEN char* dlerror(void) { return old_dlerror(); }

#else

// 2.29: without the wrapper that sets errno by the rules of System V. The same numbers.
OLD(old_exp, exp, "GLIBC_2.2.5");
OLD(old_log, log, "GLIBC_2.2.5");
OLD(old_log2, log2, "GLIBC_2.2.5");
OLD(old_pow, pow, "GLIBC_2.2.5");
extern double old_exp(double), old_log(double), old_log2(double), old_pow(double, double);
HIDDEN double exp(double x) { return old_exp(x); }
HIDDEN double log(double x) { return old_log(x); }
HIDDEN double log2(double x) { return old_log2(x); }
HIDDEN double pow(double x, double y) { return old_pow(x, y); }

// 2.32: whether shared_ptr may count without atomic operations. Node.js always has several threads.
HIDDEN char __libc_single_threaded = 0;

// 2.30. Without it the clock of the day has to do, as in the libstdc++ of its time. (dlsym: in libdl before 2.34.)
OLD(old_dlsym, dlsym, "GLIBC_2.2.5");
extern void* old_dlsym(void* handle, const char* name);
HIDDEN int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                  const struct timespec* until) {
  typedef int (*Wait)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const struct timespec*);
  const Wait wait = (Wait)old_dlsym(RTLD_DEFAULT, "pthread_cond_clockwait");
  if (wait) return wait(condition, mutex, clock, until);
  struct timespec now, deadline;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += until->tv_sec - now.tv_sec;
  deadline.tv_nsec += until->tv_nsec - now.tv_nsec;
  if (deadline.tv_nsec < 0) deadline.tv_sec -= 1, deadline.tv_nsec += 1000000000;
  if (deadline.tv_nsec >= 1000000000) deadline.tv_sec += 1, deadline.tv_nsec -= 1000000000;
  return pthread_cond_timedwait(condition, mutex, &deadline);
}

// std::condition_variable::wait(unique_lock<mutex>&); since 3.4.30 a thread's cancellation may pass through it.
OLD(old_wait, _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, "GLIBCXX_3.4.11");
extern void old_wait(void* condition, void* lock);
HIDDEN void _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(void* condition, void* lock) {
  old_wait(condition, lock);
}

// std::to_chars(char*, char*, double), 3.4.29: the fewest digits that give the same number when read again.
struct to_chars_result {
  char* end;
  int error;
};
HIDDEN struct to_chars_result _ZSt8to_charsPcS_d(char* first, char* last, double value) {
  char text[32];
  int length = 0;
  const locale_t point = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
  const locale_t before = uselocale(point);
  for (int digits = 1; digits <= 17; digits++) {
    length = snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtod(text, NULL) == value) break;
  }
  uselocale(before);
  freelocale(point);
  if (last - first < length) return (struct to_chars_result){last, EOVERFLOW};
  memcpy(first, text, (size_t)length);
  return (struct to_chars_result){first + length, 0};
}

#endif
