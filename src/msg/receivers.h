/*
 * receivers.h
 *		Who waits for messages in dtx_receive, and how they are woken.
 *
 * Of those who wait for one subscription's messages one is woken at a time, who has
 * waited longest. Who has got messages, or leaves without, wakes the next: so a message
 * costs two looks at most, however many wait, and there is always one who knows when
 * the next lease ends.
 *
 * It only saves time: who waits looks by himself every few seconds.
 */
#ifndef DTX_RECEIVERS_H
#define DTX_RECEIVERS_H

#include "postgres.h"

#include "msg/subscription.h"

/* Those who wait for this subscription, the caller among them from now on. */
extern Receivers *receivers_enter(DatabaseSlot *slot, const Subscription *subscription);

/* Not the caller any more: the next one looks. Never throws. */
extern void receivers_leave(DatabaseSlot *slot, Receivers *receivers);

/*
 * What the current transaction does: has published to a topic; has taken messages of a
 * subscription, or given them back, or been done with them; has changed subscriptions. Who
 * waits for that is woken when it ends; of what was taken, when it is rolled back too.
 */
extern void receivers_note_topic(const char *topic);
extern void receivers_note_subscription(int subscription);
extern void receivers_note_all(void);

/* Callbacks of the transaction. They never throw. */
extern void receivers_xact_end(XactEvent event);
extern void receivers_subxact_abort(void);

/* Messages were published whose topics are not known. Never throws. */
extern void receivers_tell_all(void);

#endif							/* DTX_RECEIVERS_H */
