/*
 * receivers.c
 *		Who waits for messages in dtx_receive, and how they are woken.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/shmem.h"
#include "msg/message.h"
#include "msg/receivers.h"

#define MOST_NOTED	8			/* of a transaction; beyond them all are woken */

static char topics[MOST_NOTED][DTX_TOPIC_SIZE];
static int	ntopics = 0;
static int	touched[MOST_NOTED];	/* subscriptions */
static int	ntouched = 0;
static bool published_many = false;
static bool touched_many = false;
static bool all = false;		/* when it commits */

/* The last one is everybody's for whom there is no place: all of them look. */
static void
wake_one(DatabaseSlot *slot, Receivers *receivers)
{
	if (receivers == &slot->receivers[DTX_RECEIVERS])
		ConditionVariableBroadcast(&receivers->arrived);
	else
		ConditionVariableSignal(&receivers->arrived);
}

static bool
has_published_to(const char *pattern)
{
	bool		matches = published_many;

	for (int i = 0; i < ntopics && !matches; i++)
		matches = topic_matches(pattern, topics[i]);
	return matches;
}

static bool
has_touched(int subscription)
{
	bool		found = touched_many;

	for (int i = 0; i < ntouched && !found; i++)
		found = touched[i] == subscription;
	return found;
}

/* Wake those for whom this transaction has something. */
static void
tell(bool everybody, bool committed)
{
	DatabaseSlot *slot = my_database_slot();

	/* who is not counted yet looks after that, and sees what this has done */
	pg_memory_barrier();
	if (slot == NULL || pg_atomic_read_u32(&slot->receiving) == 0)
		return;
	for (int i = 0; i <= DTX_RECEIVERS; i++)
	{
		Receivers  *receivers = &slot->receivers[i];
		Receivers	copy;

		SpinLockAcquire(&slot->mutex);
		copy.waiting = receivers->waiting;
		copy.subscription = receivers->subscription;
		memcpy(copy.topic, receivers->topic, sizeof(copy.topic));
		SpinLockRelease(&slot->mutex);
		if (copy.waiting > 0 &&
			(everybody || i == DTX_RECEIVERS || has_touched(copy.subscription) ||
			 (committed && has_published_to(copy.topic))))
			wake_one(slot, receivers);
	}
}

Receivers *
receivers_enter(DatabaseSlot *slot, const Subscription *subscription)
{
	Receivers  *found = NULL;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RECEIVERS; i++)
	{
		Receivers  *receivers = &slot->receivers[i];

		if (receivers->waiting > 0 && receivers->subscription == subscription->id)
		{
			found = receivers;
			break;
		}
		if (receivers->waiting == 0 && found == NULL)
			found = receivers;
	}
	if (found == NULL)
		found = &slot->receivers[DTX_RECEIVERS];
	found->subscription = subscription->id;
	strlcpy(found->topic, subscription->topic, sizeof(found->topic));
	found->waiting++;
	SpinLockRelease(&slot->mutex);
	pg_atomic_fetch_add_u32(&slot->receiving, 1);
	return found;
}

void
receivers_leave(DatabaseSlot *slot, Receivers *receivers)
{
	pg_atomic_fetch_sub_u32(&slot->receiving, 1);
	SpinLockAcquire(&slot->mutex);
	receivers->waiting--;
	SpinLockRelease(&slot->mutex);
	wake_one(slot, receivers);
}

void
receivers_note_topic(const char *topic)
{
	for (int i = 0; i < ntopics; i++)
		if (strcmp(topics[i], topic) == 0)
			return;
	if (ntopics < MOST_NOTED)
		strlcpy(topics[ntopics++], topic, DTX_TOPIC_SIZE);
	else
		published_many = true;
}

void
receivers_note_subscription(int subscription)
{
	for (int i = 0; i < ntouched; i++)
		if (touched[i] == subscription)
			return;
	if (ntouched < MOST_NOTED)
		touched[ntouched++] = subscription;
	else
		touched_many = true;
}

void
receivers_note_all(void)
{
	all = true;
}

void
receivers_xact_end(XactEvent event)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	/* a prepared transaction goes on: who commits it tells nobody, and who waits looks */
	if (event != XACT_EVENT_PREPARE && (ntouched > 0 || (committed && (ntopics > 0 || all))))
		tell(committed && all, committed);
	ntopics = ntouched = 0;
	published_many = touched_many = all = false;
}

void
receivers_subxact_abort(void)
{
	/* what it took is free; what it published is told of later, for nothing */
	if (ntouched > 0)
		tell(false, false);
}

void
receivers_tell_all(void)
{
	tell(true, true);
}
