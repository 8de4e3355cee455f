/* bullseye's /proc/sys/kernel/modprobe: says no to bpfilter at once, hands all else to modprobe.
 *
 * The kernel's bpfilter helper needs a newer libc than bullseye's, so its module fails to load, and the
 * kernel asks for it again at each iptables call: 0.4 s each on a user-mode kernel. */
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[argc - 1], "bpfilter")) return 1;
    argv[0] = "modprobe"; /* kmod is many programs in one, told apart by name */
    execv("/sbin/modprobe", argv);
    return 127;
}
