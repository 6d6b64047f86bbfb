/*
 * join.h
 *		Joining a shared global transaction: dtx_join, and what it has done at the
 *		coordinator.
 */
#ifndef DTX_JOIN_H
#define DTX_JOIN_H

#include "core/shared.h"
#include "core/shmem.h"

/* The worker's part: register a branch that joins in this database. Returns its
 * number, or 0 when the transaction is not open. */
extern uint32 shared_register_here(const RegisterRequest *request);

/* ERROR DX003 or 25001 unless the current transaction may open a shared one and be its branch. */
extern void join_refuse_unless_first(void);

/* Be a branch of a shared transaction that this very one has just opened. */
extern void join_opened(const SharedTransaction *st);

#endif							/* DTX_JOIN_H */
