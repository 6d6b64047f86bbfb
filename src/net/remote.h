/*
 * remote.h
 *		Calls to a peer: several statements and a Sync in one round trip.
 *
 * The statements of a call run in one implicit transaction at the peer, which
 * commits at the Sync. A call succeeded only if no error came up to the reply
 * to the Sync and the connection is idle then: deferred constraints fail there.
 */
#ifndef DTX_REMOTE_H
#define DTX_REMOTE_H

#include "core/compat.h"
#include "net/connection.h"

#define REMOTE_MAX_STATEMENTS	8

/* begins a transaction whatever the peer's role, database or server sets as default */
#define BEGIN_SQL	"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE"

typedef struct RemoteStatement
{
	const char *sql;
	int			nparams;
	const Oid  *types;			/* InvalidOid: the peer infers; NULL: all */
	const char *const *values;	/* in text */
	bool		once;			/* not worth preparing */
} RemoteStatement;

typedef struct RemoteCall
{
	PeerConnection *pc;
	int			nstatements;
	RemoteStatement statements[REMOTE_MAX_STATEMENTS];
	PGresult   *results[REMOTE_MAX_STATEMENTS];
	PGresult   *error;			/* the first error, or NULL */
	int			failed_statement;	/* which one failed; nstatements: the commit */
	bool		done;			/* the reply to the Sync is in */
	bool		broken;			/* the connection is: the outcome is unknown */
	bool		too_large;		/* broken, since the answer was */
	bool		greets;			/* part of connecting, bound by dtx.connect_timeout */
	bool		stays_open;		/* the transaction at the peer may be open afterwards */
	/* progress */
	char		names[REMOTE_MAX_STATEMENTS][24];
	bool		prepares[REMOTE_MAX_STATEMENTS];
	bool		named[REMOTE_MAX_STATEMENTS];
	Size		growth;			/* of this process by the answer, but for its first piece */
	bool		read;			/* that one was */
	int			current;
	bool		expects_prepare;	/* of the current statement */
} RemoteCall;

/* Queue and send as much as the socket takes. Sets broken on failure. */
extern void remote_start(RemoteCall *call);

/* Send and read what can be without waiting. True when done or broken. */
extern bool remote_advance(RemoteCall *call);

/* Does it wait to write as well as to read? */
extern uint32 remote_wants(RemoteCall *call);

/* Start, and wait for the end, serving interrupts. ERROR DX006 when
 * dtx.call_timeout passes, 25P04 when the deadline (0: none) does. */
extern void remote_run(RemoteCall *call, TimestampTz deadline);

/* Wait for the end of a call that was started, as remote_run does. */
extern void remote_wait(RemoteCall *call, TimestampTz deadline);

/*
 * Send SQL without waiting for the answer, which is read, and ignored, before
 * that of the next call. first may be NULL; should it fail, second is not run.
 * False: the connection is of no more use. Never throws.
 */
extern bool remote_send_and_forget(PeerConnection *pc, const char *first, const char *second);

/*
 * Throw the call's error, as the peer reported it, with its SQLSTATE. But what the client would
 * take for the end of its own connection is DX006, with the peer's SQLSTATE and message in DETAIL,
 * and what it would take for its own transaction's or prepared statements' is HV000.
 */
pg_noreturn extern void remote_throw(RemoteCall *call);

/* Text from a peer as text of this database, of at most size bytes, palloc'd: what
 * is not valid in its encoding becomes '?', each control character \xNN, and the end of a
 * line a blank. */
extern char *remote_text(const char *text, int size);

/* The same, but lines stay lines: for errors, which the server's log indents, and what is shown. */
extern char *remote_lines(const char *text, int size);

/* A name, with its control characters, since it is compared. */
extern char *remote_id(const char *text, int size);

/* "SQLSTATE: message" of what went wrong, palloc'd; for views and logs. */
extern char *remote_error_text(RemoteCall *call);

/* Failed because a prepared statement was not there, or went stale: nothing
 * was done at the peer, and the same call may be made again. */
extern bool remote_failed_on_statement(RemoteCall *call);

/*
 * Did the statement give way to a branch in doubt at the peer, that is to be rolled back or waits
 * for what the statement held? Its gid, palloc'd, or NULL. By row_lock_wait such an error names it
 * where an error of a constraint names that: in a field that users' functions do not set by chance.
 */
#define REMOTE_GAVE_WAY_TO	PG_DIAG_CONSTRAINT_NAME
extern char *remote_gave_way(RemoteCall *call);

/* Did it end with the peer's session, and not just with an error, whose state may be
 * anything: a user's function raises what it likes? */
extern bool remote_session_ended(const RemoteCall *call);

/* Throw ERROR DX006 when trying again did not help against that. */
pg_noreturn extern void remote_throw_swapped(void);

/* Has result i at least that many rows and columns, of a query? A peer may be
 * anything that answers. */
extern bool remote_has_rows(RemoteCall *call, int i, int rows, int columns);

/* Free the results. Call on every path. */
extern void remote_free(RemoteCall *call);

#endif							/* DTX_REMOTE_H */
