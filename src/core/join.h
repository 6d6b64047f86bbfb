/*
 * join.h
 *		Joining a shared global transaction: dtx_join, and what it has done at the
 *		coordinator.
 */
#ifndef DTX_JOIN_H
#define DTX_JOIN_H

#include "core/shmem.h"

/* The worker's part: register a branch that joins in this database. Returns its
 * number, or 0 when the transaction is not open. */
extern uint32 shared_register_here(const RegisterRequest *request);

#endif							/* DTX_JOIN_H */
