/*
 * position.h
 *		Where a subscription stands in the log, and reading on from there.
 *
 * Ids do not commit in their order, so "all up to id 17" is no position. A
 * snapshot is: all messages of transactions that are over in it. What came later
 * is what a newer snapshot sees and this one does not: each message once, however
 * late it committed, and no transaction that is still open delays another one's.
 */
#ifndef DTX_POSITION_H
#define DTX_POSITION_H

#include "postgres.h"

#include "msg/message.h"
#include "msg/passed.h"
#include "msg/subscription.h"
#include "storage/itemptr.h"

typedef struct Position
{
	int			subscription;
	int			generation;
	int64		batch;			/* number of the last one */
	Passed	   *passed;
	Passed	   *upto;			/* NULL, or: of this window, ids up to cursor have passed */
	int64		cursor;
	int64		delivered;
	TimestampTz delivered_at;
	double		rate;			/* messages a second, of late */
	int			attempts;
	TimestampTz next_attempt;
	const char *last_error;		/* NULL: none */
	bool		refused;		/* by the receiver, as long as the generation is this one */
	ItemPointerData tid;		/* where its row was last; the table may be rewritten meanwhile */
	TransactionId writer;		/* of the row that was read */
} Position;

/* Messages of a window that are still to be read. */
typedef struct Entry
{
	int64		id;
	ItemPointerData tid;
	uint16		segment;		/* number in the reader's list */
} Entry;

/* Reads a subscription's messages, batch by batch. */
typedef struct Reader
{
	const Subscription *subscription;
	MemoryContext context;		/* of all below; the caller's */
	MemoryContext window;		/* child: of upto and entries */
	Passed	   *seen;			/* the subscription's since_seen, or NULL */
	Passed	   *passed;
	Passed	   *upto;			/* NULL: between windows */
	int64		cursor;
	List	   *segments;		/* of the window */
	Entry	   *entries;		/* sorted by id */
	int			nentries;
	int			next;			/* first one not read yet */
	bool		cut_off;		/* the window has more than entries */
	bool		began;			/* this reader has begun a window, rather than gone on with one */
	bool		fresh;			/* and what it reads now came after that one */
} Reader;

/* A reader that starts where a position is. */
extern Reader *reader_open(const Subscription *subscription, const Position *position, MemoryContext context);
extern void reader_close(Reader *reader);

/*
 * The next messages, in the order of their ids within a window: a List of Message *,
 * palloc'd in the current context, at most `most` and about max_bytes; NIL: there
 * are none now. In a transaction.
 */
extern List *reader_next(Reader *reader, int most, Size max_bytes);

/* For who may leave some out: the id of the next message, 0: there is none now; go on without
 * it; and where the reader is before it, into a position. */
extern int64 reader_peek(Reader *reader);
extern void reader_skip(Reader *reader);
extern void reader_before(const Reader *reader, Position *position);

/* Where that leaves the reader, into a position: passed, upto and cursor, palloc'd
 * in the current context. */
extern void reader_position(const Reader *reader, Position *position);

/* The window that the messages read last are from: its passed and upto, palloc'd. */
extern void reader_window(const Reader *reader, Position *position);

/* Is it at the end of what there was when it looked last? */
extern bool reader_at_end(const Reader *reader);

/* Rows of dtx.position: read all into a List of Position *; insert; update, wherever the
 * row is by now. ERROR 42704 when it is gone. */
extern List *positions_read(void);
extern Position *position_read(int subscription);
extern void position_insert(Position *position);

/* Is a row that was read the one that there is now? */
extern bool position_is_unmoved(const Position *position);
extern void position_update(Position *position);

/* So many messages were delivered just now. */
extern void position_count(Position *position, int64 messages);

/*
 * Where a subscription is to go on, palloc'd, given its row (NULL: none): there, but not
 * before its start, which may have been moved forward; or, in a new generation, at that.
 * *moved: this is not what the row says.
 */
extern Position *position_to_go_on(const Subscription *subscription, const Position *row, bool *moved);

#endif							/* DTX_POSITION_H */
