/*
 * handler.h
 *		Handlers: the functions that messages are handled by.
 */
#ifndef DTX_HANDLER_H
#define DTX_HANDLER_H

#include "postgres.h"

#include "fmgr.h"
#include "msg/message.h"

/* What a handler is called with. A notification is a message whose key is the tx_no and
 * whose topic is the sender. */
typedef enum HandlerKind
{
	HANDLES_MESSAGES = 1,
	HANDLES_NOTIFICATIONS = 2
} HandlerKind;

typedef struct Handler
{
	const char *name;			/* as it was given */
	HandlerKind kind;
	Oid			function;
	FmgrInfo	flinfo;
	int			nargs;
	int			fields[8];		/* what each argument gets */
	/* NULL, or called before each call, in its subtransaction: false, and it is handled
	 * without being called */
	bool		(*first) (const Message *message, void *arg);
	void	   *first_arg;
} Handler;

/* What became of a message. */
typedef struct Handled
{
	bool		done;
	bool		skipped;		/* not called: an earlier one of its key has failed */
	const char *state;			/* SQLSTATE, unless done */
	const char *message;		/* and text */
	int64		retry_after;	/* ms that the handler asked for; -1: it did not */
} Handled;

/*
 * A handler by name, name with schema, or signature, palloc'd, for the current role.
 * Its arguments get what their names say: id, topic, key, payload, headers,
 * published_at, attempt, or, for notifications, tx_no, payload, sender, notified_at,
 * attempt; a single one of type jsonb gets the payload whatever its name. ERROR 42883 when there is none, 42P13 when it cannot be a handler, 42501
 * without EXECUTE.
 */
extern Handler *handler_lookup(const char *name, HandlerKind kind);

/* The name that finds its function whatever the search path, with the signature if it
 * was given with one. */
extern char *handler_qualified_name(const Handler *handler);

/* A function by name or signature. ERROR 42883, 42725. */
extern Oid	function_by_name(const char *name);

/* ERROR 55000 when no process could run as this role by itself. */
extern void handler_check_role(Oid role);

/* A call that handles something: it ends after that many ms, unless statement_timeout
 * comes first, and when its sender has gone. True: disable STATEMENT_TIMEOUT afterwards. */
extern bool handling_limit(int timeout);
extern void handling_watch_sender(void);

#define HANDLE_TIMEOUT	30000	/* ms for a batch, where dtx.call_timeout sets none */

/* In a process that runs a role's functions: end what is called between these two, by
 * an ERROR 57014, when it takes longer than dtx.call_timeout, or HANDLE_TIMEOUT. What is
 * called when its transaction commits counts too: the second is for afterwards, and for
 * where an ERROR was caught. */
extern void handling_limit_own(void);
extern void handling_unlimit_own(void);

/* The id of a message that is in the list more than once; 0: there is none. */
extern int64 messages_twice(List *messages);

/*
 * Handle messages, each once, in the current transaction: all in one subtransaction,
 * or, when that fails, each in one of its own. ordered: what comes after one of the
 * same key that failed is skipped. Returns one Handled a message.
 */
extern Handled *handle_messages(Handler *handler, List *messages, bool ordered);

#endif							/* DTX_HANDLER_H */
