/*
 * tell.h
 *		What a transaction tells the worker when it commits.
 */
#ifndef DTX_TELL_H
#define DTX_TELL_H

#include "core/shmem.h"

/* When this transaction commits, hand this to the worker. */
extern void tell_worker_at_commit(const Outcome *outcome);

/* Refuse to prepare a transaction that has something to tell. */
extern void tell_pre_prepare(void);

/* Never throws. */
extern void tell_xact_end(bool commit);

#endif							/* DTX_TELL_H */
