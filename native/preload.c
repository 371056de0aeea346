// A stub addon that opens shared libraries from a folder chosen at run time. It depends on nothing but libc, so Node
// can always load it; the main addon's references to libtorch then resolve by SONAME against what was opened here.
// (Setting LD_LIBRARY_PATH inside a running process has no effect.)
#include <dlfcn.h>
#include <node_api.h>
#include <pthread.h>
#include <stdlib.h>

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

NAPI_MODULE_INIT() {
  const napi_property_descriptor properties[] = {
      {"open", NULL, open_library, NULL, NULL, NULL, napi_enumerable, NULL},
      {"claim", NULL, claim, NULL, NULL, NULL, napi_enumerable, NULL},
      {"unclaim", NULL, unclaim, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setDefault", NULL, set_default, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  if (napi_define_properties(env, exports, sizeof properties / sizeof *properties, properties) != napi_ok) return NULL;
  return exports;
}
