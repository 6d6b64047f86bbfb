/*
 * xa.h
 *		XA: two-phase commit with PREPARE TRANSACTION.
 */
#ifndef DTX_XA_H
#define DTX_XA_H

#include "core/global.h"

/* Register the mode; at load time only. */
extern void xa_register(void);

/* --- the coordinator: session.c --- */

extern PGresult *xa_run(Oid server, Oid role, const RemoteStatement *statement, int flags);
extern void xa_prepare_all(void);
extern void xa_subxact_end(bool commit, SubTransactionId id, SubTransactionId parent);
extern void xa_xact_end(bool commit);

/* --- the participant: prepared.c --- */

extern bool xa_settle_held(const JoinedBranch *branch, bool commit);
extern List *xa_list_held(List *held);

#endif							/* DTX_XA_H */
