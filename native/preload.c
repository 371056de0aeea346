// A stub addon that opens shared libraries from a folder chosen at run time, and locks folders. It depends on nothing
// but libc, so Node can always load it; the main addon's references to libtorch then resolve by SONAME against what was
// opened here. (Setting LD_LIBRARY_PATH inside a running process has no effect.)
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <node_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static napi_value throw_type_error(napi_env env, const char* message) {
  napi_throw_type_error(env, NULL, message);
  return NULL;
}

// A malloc'ed copy of a string argument, or NULL if it is no string.
static char* string_argument(napi_env env, napi_value value) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) return NULL;
  char* text = malloc(length + 1);
  if (text && napi_get_value_string_utf8(env, value, text, length + 1, &length) != napi_ok) {
    free(text);
    return NULL;
  }
  return text;
}

// open(path): the library stays open, its symbols visible to every later one, until the process ends.
// Throws an Error with the loader's own message.
static napi_value open_library(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count < 1)
    return throw_type_error(env, "Expected a path for open() but received nothing");
  char* path = string_argument(env, argument);
  if (!path) return throw_type_error(env, "Expected a string as the path for open()");
  if (!dlopen(path, RTLD_NOW | RTLD_GLOBAL)) {
    const char* reason = dlerror();
    napi_throw_error(env, NULL, reason ? reason : "dlopen failed without a reason");
  }
  free(path);
  return NULL;
}

// setDefault(name, value): sets an environment variable of the process unless it is set. A worker thread's process.env
// is a copy that libraries do not see.
static napi_value set_default(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) != napi_ok || count < 2)
    return throw_type_error(env, "Expected a name and a value for setDefault()");
  char* name = string_argument(env, arguments[0]);
  char* value = string_argument(env, arguments[1]);
  if (!name || !value)
    throw_type_error(env, "Expected two strings for setDefault()");
  else if (setenv(name, value, 0) != 0)
    napi_throw_error(env, NULL, "The environment variable could not be set");
  free(name);
  free(value);
  return NULL;
}

// The folder whose libtorch this process uses. Every worker thread has its own JavaScript state, and two libtorches in
// one process would break each other.
static pthread_mutex_t folder_lock = PTHREAD_MUTEX_INITIALIZER;
static char* folder = NULL;

// claim(folder): the folder of this process, which is the first one claimed.
static napi_value claim(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument, result = NULL;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count < 1)
    return throw_type_error(env, "Expected a folder for claim() but received nothing");
  char* wanted = string_argument(env, argument);
  if (!wanted) return throw_type_error(env, "Expected a string as the folder for claim()");
  pthread_mutex_lock(&folder_lock);
  if (folder)
    free(wanted);
  else
    folder = wanted;
  napi_create_string_utf8(env, folder, NAPI_AUTO_LENGTH, &result);
  pthread_mutex_unlock(&folder_lock);
  return result;
}

// unclaim(): for a libtorch that could not be opened.
static napi_value unclaim(napi_env env, napi_callback_info info) {
  (void)env, (void)info;
  pthread_mutex_lock(&folder_lock);
  free(folder);
  folder = NULL;
  pthread_mutex_unlock(&folder_lock);
  return NULL;
}

static void close_lock(napi_env env, void* data, void* hint) {
  (void)env, (void)hint;
  close((int)(intptr_t)data - 1);
}

// The descriptor of the folder at `path` with the lock on it; -1 and errno where it cannot be had.
static int open_locked(const char* path) {
  for (;;) {
    const int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return -1;
    struct stat opened, there;
    int locked = flock(descriptor, LOCK_EX | LOCK_NB);
    if (locked < 0 && errno == EBADF) {
      // NFS locks what is open for writing alone.
      const int file = openat(descriptor, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
      const int reason = errno;
      close(descriptor);
      errno = reason;
      if (file < 0 || flock(file, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return file;
      close(file);
      errno = EWOULDBLOCK;
      return -1;
    }
    if (locked < 0 && errno != EWOULDBLOCK && errno != EINTR) locked = 0;  // a file system without locks
    if (locked == 0 && fstat(descriptor, &opened) == 0 && stat(path, &there) == 0) {
      if (opened.st_ino == there.st_ino && opened.st_dev == there.st_dev) return descriptor;
      close(descriptor);  // the folder was replaced by another meanwhile
      continue;
    }
    const int reason = errno;
    close(descriptor);
    errno = reason;
    return -1;
  }
}

// lockFolder(path): a lock on an existing folder that ends with unlockFolder(lock), with its collection, or with the
// process however that ends; null where another open of the folder holds it, in this process or another one. Throws an
// Error whose code is the errno's name, or its number.
static napi_value lock_folder(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument, result = NULL;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count < 1)
    return throw_type_error(env, "Expected a path for lockFolder() but received nothing");
  char* path = string_argument(env, argument);
  if (!path) return throw_type_error(env, "Expected a string as the path for lockFolder()");
  const int descriptor = open_locked(path);
  const int reason = errno;
  free(path);
  if (descriptor >= 0) {
    if (napi_create_external(env, (void*)(intptr_t)(descriptor + 1), close_lock, NULL, &result) != napi_ok)
      close(descriptor);
  } else if (reason == EWOULDBLOCK) {
    napi_get_null(env, &result);
  } else {
    napi_throw_error(env, reason == ENOENT ? "ENOENT" : NULL, strerror(reason));
  }
  return result;
}

// unlockFolder(lock): lets others have it; the descriptor stays open until the lock is collected.
static napi_value unlock_folder(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  void* data = NULL;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count < 1 ||
      napi_get_value_external(env, argument, &data) != napi_ok)
    return throw_type_error(env, "Expected a lock for unlockFolder()");
  flock((int)(intptr_t)data - 1, LOCK_UN);
  return NULL;
}

NAPI_MODULE_INIT() {
  const napi_property_descriptor properties[] = {
      {"open", NULL, open_library, NULL, NULL, NULL, napi_enumerable, NULL},
      {"claim", NULL, claim, NULL, NULL, NULL, napi_enumerable, NULL},
      {"unclaim", NULL, unclaim, NULL, NULL, NULL, napi_enumerable, NULL},
      {"lockFolder", NULL, lock_folder, NULL, NULL, NULL, napi_enumerable, NULL},
      {"unlockFolder", NULL, unlock_folder, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setDefault", NULL, set_default, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
  return exports;
}
