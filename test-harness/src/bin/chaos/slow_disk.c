// Loaded into redis-server (LD_PRELOAD): while the file that BERTH_SLOW_DISK names exists, each fsync first waits for as many
// milliseconds as the file says. A disk that is slow to confirm looks like this to Redis.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_as_set(void) {
  const char *name = getenv("BERTH_SLOW_DISK");
  FILE *file = name ? fopen(name, "r") : NULL;
  long milliseconds = 0;
  if (file == NULL) return;
  if (fscanf(file, "%ld", &milliseconds) == 1) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
  }
  fclose(file);
}

int fsync(int fd) {
  wait_as_set();
  return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
  wait_as_set();
  return syscall(SYS_fdatasync, fd);
}
