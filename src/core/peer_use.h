/*
 * peer_use.h
 *		Sessions that use a (server, role) pair, and those that drop a server, a
 *		user mapping or a role: neither may overlook the other.
 *
 * A heavyweight lock on each of the three would do, but every transaction would
 * meet every other at the same locks. Instead a user publishes what it uses,
 * then looks whether anybody drops anything; who drops says so, then looks
 * whether anybody uses it. One of the two sees the other.
 */
#ifndef DTX_PEER_USE_H
#define DTX_PEER_USE_H

#include "postgres.h"

/*
 * From now to the end of the transaction it uses the server as the role, and
 * neither can be dropped, nor the user mapping. When somebody is dropping
 * something, waits for that transaction to end. What the caller looks up in the
 * catalogs after this call is there to stay.
 */
extern void peer_use(Oid server, Oid role);

/* This transaction is about to drop such an object, or a function of an action. ERROR 55000 if it is
 * prepared later on. */
extern void peer_drop_announce(void);

/* Is anybody else dropping something? To be asked after publishing the use of
 * it, in shared memory or by a row. */
extern bool peer_drop_under_way(void);

/* Does a session of this database, this one included, use this server, or one of the cluster
 * this role? InvalidOid: any. To be asked after peer_drop_announce. */
extern bool peer_in_use(Oid server, Oid role);

extern void peer_use_pre_prepare(void);

/* The transaction is over. Never throws. */
extern void peer_use_xact_end(void);

/* At load time only. */
extern void peer_use_register(void);

#endif							/* DTX_PEER_USE_H */
