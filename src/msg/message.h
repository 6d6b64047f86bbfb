/*
 * message.h
 *		Messages, and the log that they are published to.
 */
#ifndef DTX_MESSAGE_H
#define DTX_MESSAGE_H

#include "postgres.h"

#include "access/xact.h"
#include "core/shmem.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

typedef struct Message
{
	int64		id;				/* 0: not numbered yet */
	uint64		xid;			/* of who published it, where it was read from the log */
	const char *topic;
	text	   *key;			/* NULL: none */
	Jsonb	   *payload;
	Jsonb	   *headers;		/* NULL: none */
	TimestampTz published_at;
	int			attempts;		/* that were made, when it is delivered */
	bool		ended;			/* the process that handled it the last time has ended */
	bool		known;			/* the handler was not called: it was handled before */
} Message;

/* Load time. */
extern void msg_register(void);

/* ERROR 22023 unless it can be a topic; with a pattern, '*' may stand for any text. */
extern void topic_check(const char *topic, bool pattern);

/* Topics of dtx's own begin with this: ERROR 42939 for those. */
#define OWN_TOPIC	"dtx."
extern void topic_check_foreign(const char *topic);

/* Does a topic match a topic or pattern? */
extern bool topic_matches(const char *pattern, const char *topic);

/*
 * Publish in the current transaction: into the log; into dtx.held_message inside
 * a branch; into dtx.delayed_message when deliver_at (0: none) is to come. Gives
 * it an id, unless it has one, and returns it. ERROR 22023, 54000.
 */
extern int64 message_publish(Message *message, TimestampTz deliver_at);

/* Append to the log, as it is. The transaction commits synchronously then: once the
 * message is out there is no way back. */
extern void message_append(const Message *message);

/* ERROR 54000 when it is larger than dtx.max_message_size, or its key is too long. */
extern void message_check_size(const Message *message);

/* Callbacks of the transaction. The latter never throws. */
extern void message_pre_commit(void);
extern void message_xact_end(XactEvent event);

/* This transaction has to commit synchronously, whatever is set until then. */
extern void message_must_be_durable(void);

/* This transaction changes what the worker has to do, and when: it is told at commit. */
extern void message_changed(void);

/* This transaction notifies a target: the worker is told at commit. */
extern void message_notifies(uint32 bucket);

/* A prepared transaction was committed that may have published. Never throws. */
extern void message_committed_elsewhere(void);

/* In the worker: messages whose time has come enter the log. Returns when the next
 * is due; 0: there is none. */
extern TimestampTz message_release_delayed(void);

/* --- segments: segment.c --- */

typedef struct Segment
{
	int			number;
	Oid			relation;
	TimestampTz opened_at;
	uint64		closed_xid;		/* 0: it may be written still */
	Oid			file;			/* of a reader: where the relation's rows were when it looked */
} Segment;

/* All segments, oldest first: a List of Segment *. */
extern List *segments_read(void);

/* This transaction has a subscription begin somewhere in the log, which others see when it
 * commits: until it is over no segment is found to be passed by all. */
extern void segments_hold(void);

/* The one to write to, its relation and that of its index. */
extern void segment_current(Oid *relation, Oid *index);

/* Is it on the transaction that published, and on nothing else? */
extern bool segment_index_fits(Relation index);

/*
 * In the worker: begin a new segment when the last is old or large enough, and
 * drop those that all positions have passed. passed_below: transactions below it
 * have been passed by all of them. Returns how many segments there are; 0: there is nothing to come
 * back for until more is published.
 */
extern int	segments_rotate(uint64 passed_below);

#endif							/* DTX_MESSAGE_H */
