/*
 * locks.h
 *		Locks of dtx's own: advisory ones, of classes that SQL cannot take.
 *
 * The last field of the tag tells them apart; pg_advisory_lock has 1 and 2. Each
 * class has one kind of key, so that who may take one cannot hold up another.
 */
#ifndef DTX_LOCKS_H
#define DTX_LOCKS_H

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/resowner.h"

typedef enum LockClass
{
	LOCK_BRANCH = 4,			/* a gid: who joins or settles the branch */
	LOCK_SUBSCRIPTION = 5,		/* a subscription's uid: who delivers, and writes its position */
	LOCK_SHARED_TRANSACTION = 6,	/* an N: who joins it, or decides it */
	LOCK_UNDO_FILTER = 7,		/* 0: who loads the filter of row locks */
	LOCK_COORDINATOR = 8,		/* a hash of (node, role): who writes what is kept of it */
	LOCK_LOG = 9,				/* 0: shared by who begins to read the log somewhere, which nobody else sees
								 * yet; exclusive: who looks from where on it is needed */
	LOCK_EXTENSION = 10,		/* 0: transactions of the worker share it, DROP EXTENSION has it alone */
	LOCK_TOPIC = 11,			/* a hash of a topic: who makes a subscription unless there is one */
	LOCK_STEP = 12,				/* a role, and a hash of (xid, step): who does that step of a shared transaction */
	LOCK_CONSUMER = 13			/* a subscription's uid: who takes messages of it, for as long as that takes */
} LockClass;

static inline void
own_lock_tag(LOCKTAG *tag, LockClass class, int64 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) ((uint64) key >> 32), (uint32) key, class);
}

/* Take it to the end of the transaction. False when it is not to be had without waiting,
 * and wait is false. */
static inline bool
own_lock(LockClass class, int64 key, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	own_lock_tag(&tag, class, key);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* One that is held already is kept to the end of the transaction, whatever becomes of the
 * savepoint in which it was taken. */
static inline void
own_lock_keep(LockClass class, int64 key, LOCKMODE mode)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	(void) own_lock(class, key, mode, false);
	CurrentResourceOwner = owner;
}

/* Give it back, once for each time it was taken. */
static inline void
own_unlock(LockClass class, int64 key, LOCKMODE mode)
{
	LOCKTAG		tag;

	own_lock_tag(&tag, class, key);
	(void) LockRelease(&tag, mode, false);
}

#endif							/* DTX_LOCKS_H */
