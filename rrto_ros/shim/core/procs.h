/* Tables that the generator fills: symbols for cuGetProcAddress, names of results. */
#ifndef RRTO_PROCS_H
#define RRTO_PROCS_H

struct rrto_proc {
    const char *name;
    int since;       /* CUDA version, 12080 for 12.8 */
    int per_thread;  /* the variant for the per-thread default stream */
    void (*symbol)(void);
};
extern const struct rrto_proc rrto_procs[]; /* sorted by name, then version */
extern const unsigned rrto_proc_count;

struct rrto_error {
    int number;
    const char *name;
    const char *text;
};
extern const struct rrto_error rrto_errors[]; /* sorted by number */
extern const unsigned rrto_error_count;

#endif
