/* First process of a machine's process namespace: starts the user-mode kernel, and again after a reboot.
 *
 * At a reboot the kernel executes its own argv[0] while its tap is still open, which would leave the
 * machine without network. So argv[0] is this program, which then only ends with a code of its own.
 *
 * The kernel may miss the signal of its one-shot timer, and then waits for it without end, all processors' time
 * spent: its clock stands, and with it whatever waits in the machine. Another such signal sets it going again, and
 * does nothing otherwise; so one is sent every second.
 * usage: supervisor kernel [argument…] */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REBOOT = 42 };

/* The exit status of the kernel; it is nudged until then. */
static int ended(pid_t kernel, const sigset_t *child) {
    const struct timespec second = {.tv_sec = 1};
    int status = 0;
    while (waitpid(kernel, &status, WNOHANG) == 0)
        if (sigtimedwait(child, NULL, &second) < 0) kill(kernel, SIGALRM);
    return status;
}

int main(int argc, char **argv) {
    signal(SIGALRM, SIG_IGN);
    if (getpid() != 1) return REBOOT; /* called by the kernel, in its own place */
    if (argc < 2) return 2;
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    for (;;) {
        pid_t kernel = fork();
        if (kernel == 0) { /* SIGALRM stays ignored until the kernel takes it */
            char *file = argv[1];
            sigprocmask(SIG_SETMASK, &before, NULL);
            argv[1] = argv[0];
            execv(file, argv + 1);
            perror(file);
            _exit(127);
        }
        if (kernel < 0) return 127;
        int status = ended(kernel, &child);
        kill(-1, SIGKILL); /* all else in this namespace: what the kernel left */
        while (wait(NULL) > 0) { }
        /* Between the kernel's exec and this program's first line the signal is deadly: that is a reboot too. */
        int nudged = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
        if (!nudged && (!WIFEXITED(status) || WEXITSTATUS(status) != REBOOT)) return 1;
    }
}
