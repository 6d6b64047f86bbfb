/*
 * link.h
 *		A connection of the worker's: opened, greeted and used without waiting.
 *
 * Who has one takes a step whenever the loop comes round: what can be done
 * without waiting is done, and link_events and link_due say what to wait for.
 */
#ifndef DTX_LINK_H
#define DTX_LINK_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "net/remote.h"

typedef enum LinkState
{
	LINK_CLOSED,
	LINK_CONNECTING,
	LINK_GREETING,
	LINK_IDLE,
	LINK_CALLING
} LinkState;

/*
 * What a step came to:
 *
 *	NOTHING		it goes on, or nothing is under way
 *	READY		connected, and the peer has greeted
 *	ANSWERED	the call is over: see call.broken and call.error
 *	TIMED_OUT	the call is not over in time
 *	FAILED		there is no connection to be had, as *why says
 */
typedef enum LinkEvent
{
	LINK_NOTHING,
	LINK_READY,
	LINK_ANSWERED,
	LINK_TIMED_OUT,
	LINK_FAILED
} LinkEvent;

typedef struct Link
{
	Oid			server;
	Oid			role;
	LinkState	state;
	PeerConnection *pc;			/* NULL: closed */
	PostgresPollingStatusType polling;
	RemoteCall	call;
	TimestampTz deadline;		/* of what is under way */
	MemoryContext call_context; /* what the call's parameters live in */
	TimestampTz last_used;
} Link;

extern void link_init(Link *link, Oid server, Oid role);

/* Begin to connect, when it is closed. In no transaction. NULL, or why it cannot
 * be, palloc'd. */
extern char *link_connect(Link *link);

/* NULL, or why its role may not use the server any more, palloc'd. What is to be sent as
 * the role is sent only after this; what is to be settled is settled all the same. In no
 * transaction. */
extern char *link_refused(Link *link);

/* Go on with what is under way. *why is palloc'd. */
extern LinkEvent link_step(Link *link, char **why);

/* Close without a word, whatever its state. */
extern void link_close(Link *link);

/* Is a connection that was idle of no more use? */
extern bool link_is_stale(Link *link);

/* An empty call; what it needs is to be allocated in call_context, which is reset. */
extern RemoteCall *link_new_call(Link *link, int nstatements);
extern void link_set_statement(Link *link, int i, const char *sql, int nparams,
							   const char *const *values);

/* Start it. timeout in ms, 0: dtx.call_timeout, or half a minute. */
extern void link_start_call(Link *link, int timeout);

/* What to wait for at its socket, 0: it has none; and until when something that is
 * under way may take, 0: nothing is. */
extern uint32 link_events(Link *link);
extern TimestampTz link_due(Link *link);

#endif							/* DTX_LINK_H */
