/*
 * notifier.h
 *		The part of the worker that makes attempts of notifications.
 */
#ifndef DTX_NOTIFIER_H
#define DTX_NOTIFIER_H

#include "postgres.h"

#include "worker/link.h"

/* Targets have changed: read them again. */
extern void notifier_reload(void);

/* Take what has come from HTTP endpoints; throws nothing. */
extern void notifier_receive(void);

/* Record what came of attempts, claim new ones, and begin to make them. An ERROR in it
 * loses nothing: the same is to be done again. */
extern void notifier_step(void *arg);

/* Transactions that were prepared may have notified: look. */
extern void notifier_look(void);

/* When it next has something to do by itself; 0: never. */
extern TimestampTz notifier_due(void);

/* Is there nothing to be done now, as far as is known? When there will be something; 0:
 * not as far as is known. */
extern bool notifier_is_idle(void);
extern TimestampTz notifier_later(void);

/* Are attempts under way, or not recorded yet? */
extern bool notifier_is_calling(void);

/* Its connections to databases: call for each, from *iterator = NULL on. */
extern Link *notifier_next_link(void **iterator);

#endif							/* DTX_NOTIFIER_H */
