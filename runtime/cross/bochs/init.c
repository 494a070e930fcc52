// SPDX-License-Identifier: Apache-2.0
// First process of the emulated machine: runs /selftest with its output on the serial port, reports its exit status, powers off.
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

int main(void) {
  mkdir("/dev", 0755);
  mkdir("/proc", 0755);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  const int serial = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
  if (serial >= 0) {
    dup2(serial, 0);
    dup2(serial, 1);
    dup2(serial, 2);
  }
  setvbuf(stdout, NULL, _IONBF, 0);
  printf("\nEDGEFOLD BEGIN\n");
  const pid_t child = fork();
  if (child == 0) {
    char *arguments[] = {"/selftest", NULL};
    char *environment[] = {NULL};
    execve("/selftest", arguments, environment);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) {
    printf("EDGEFOLD END exit %d\n", WEXITSTATUS(status));
  } else {
    printf("EDGEFOLD END signal %d\n", WTERMSIG(status));
  }
  tcdrain(1);
  reboot(RB_POWER_OFF);
  return 0;
}
