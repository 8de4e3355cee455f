/* First process of a machine's process namespace: starts the user-mode kernel, and again after a reboot.
 *
 * At a reboot the kernel executes its own argv[0] while its tap is still open, which would leave the
 * machine without network. So argv[0] is this program, which then only ends with a code of its own.
 * usage: supervisor kernel [argument…] */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REBOOT = 42 };

int main(int argc, char **argv) {
    if (getpid() != 1) return REBOOT; /* called by the kernel, in its own place */
    if (argc < 2) return 2;
    for (;;) {
        int status = 0;
        pid_t kernel = fork();
        if (kernel == 0) {
            char *file = argv[1];
            argv[1] = argv[0];
            execv(file, argv + 1);
            perror(file);
            _exit(127);
        }
        if (kernel < 0) return 127;
        while (waitpid(kernel, &status, 0) < 0) { }
        kill(-1, SIGKILL); /* all else in this namespace: what the kernel left */
        while (wait(NULL) > 0) { }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != REBOOT) return 1;
    }
}
