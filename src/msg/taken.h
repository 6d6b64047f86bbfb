/*
 * taken.h
 *		Which messages of the log somebody has taken, with dtx_receive.
 *
 * A message that was taken has a row in dtx.undelivered, from the moment on that it is
 * taken, in a transaction that may still be open. A row of such a transaction is seen
 * here: it is what keeps two consumers from the same message, and one who is rolled back
 * gives it back by that alone. Once it was handled the row goes, if the position has
 * passed the message; else it stays, as done, until that has.
 *
 * Who looks has the lock of the subscription's consumers: nobody takes one meanwhile.
 */
#ifndef DTX_TAKEN_H
#define DTX_TAKEN_H

#include "postgres.h"

#include "msg/passed.h"
#include "msg/subscription.h"
#include "utils/rel.h"

typedef enum TakenState
{
	TAKEN_NO,
	TAKEN_YES,					/* and so it stays; or by this transaction itself */
	TAKEN_OPEN					/* a transaction that is still open has to do with it */
} TakenState;

/* For looking at one subscription's rows. */
typedef struct Taken
{
	Relation	rel;
	Oid			by_id;			/* indexes; InvalidOid: there is none just now */
	Oid			by_key;
	int			subscription;
	int			generation;
	Passed	   *start;			/* rows of what is over in it do not count */
	char		state;			/* of the row that was found last */
} Taken;

extern void taken_open(Taken *taken, const Subscription *subscription);
extern void taken_close(Taken *taken);

/* Is this message taken, or done? */
extern TakenState taken_message(Taken *taken, int64 id);

/* Is there a message of this key that is not done? */
extern TakenState taken_key(Taken *taken, text *key);

/* Ids of all that the snapshot of own_snapshot sees, in ascending order, palloc'd. */
extern int64 *taken_ids(const Subscription *subscription, int *count);

#endif							/* DTX_TAKEN_H */
