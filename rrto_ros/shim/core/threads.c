/* Threads of the shim's own: the courier, and the one that runs host functions. */
#include <limits.h>
#include <signal.h>

#include "shim.h"

int rrto_start_thread(void *(*run)(void *), size_t stack)
{
    pthread_attr_t how;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    /* The program's signals are handled by its own threads. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_attr_init(&how);
    if (!failed) {
        pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
        if (stack)
            pthread_attr_setstacksize(&how, stack);
        failed = pthread_create(&thread, &how, run, NULL);
        pthread_attr_destroy(&how);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}
