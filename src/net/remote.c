/*
 * remote.c
 *		Pipelined calls to a peer that wait on latch and socket.
 *
 * A statement is prepared at the peer when it is first used on a connection,
 * under a name made from its text and types: should a pooler hand the next
 * call to another server session, the name is missing there or means the same
 * statement, and can do no harm.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "core/clock.h"
#include "core/errors.h"
#include "guc.h"
#include "net/remote.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* A connection keeps at most this many prepared statements at the peer. */
#define MAX_PREPARED	256
#define MAX_FIELD		(64 * 1024)	/* bytes of a field of an error */

typedef struct PreparedName
{
	char		name[24];		/* hash key */
	bool		doubted;		/* the types that were inferred for it may not be those of today */
} PreparedName;

static void
statement_name(const RemoteStatement *statement, char *name)
{
	uint64		h = hash_bytes_extended((const unsigned char *) statement->sql,
										strlen(statement->sql), 0);

	for (int i = 0; i < statement->nparams; i++)
		h = hash_combine64(h, hash_bytes_uint32_extended(statement->types ? statement->types[i] : 0, i));
	memset(name, 0, 24);
	snprintf(name, 24, "dtx_%08x%08x", (uint32) (h >> 32), (uint32) h);
}

static bool
is_prepared(PeerConnection *pc, const char *name)
{
	return pc->statements != NULL &&
		hash_search(pc->statements, name, HASH_FIND, NULL) != NULL;
}

static bool
is_doubted(PeerConnection *pc, const char *name)
{
	PreparedName *entry = pc->statements == NULL ? NULL : hash_search(pc->statements, name, HASH_FIND, NULL);

	return entry != NULL && entry->doubted;
}

/*
 * A prepared statement keeps the types that the peer inferred for its parameters when it was
 * prepared. Somebody may have changed a column's type since: a value that fits the column is refused
 * then, or the statement altogether, as long as the connection lives. So after an error that may
 * come of that it is prepared anew with each call.
 */
static void
doubt_types(RemoteCall *call, int i)
{
	const RemoteStatement *s = &call->statements[i];
	const char *state = PQresultErrorField(call->error, PG_DIAG_SQLSTATE);
	PreparedName *entry;
	bool		inferred = false;

	if (i >= call->nstatements || !call->named[i] || call->prepares[i] || s->types == NULL || state == NULL ||
		(strncmp(state, "22", 2) != 0 && strncmp(state, "42", 2) != 0))
		return;
	for (int p = 0; p < s->nparams; p++)
		inferred |= s->types[p] == InvalidOid;
	if (!inferred || call->pc->statements == NULL)
		return;
	entry = hash_search(call->pc->statements, call->names[i], HASH_FIND, NULL);
	if (entry != NULL)
		entry->doubted = true;
}

static void
remember_prepared(PeerConnection *pc, const char *name)
{
	PreparedName *entry;

	if (pc->statements == NULL)
	{
		HASHCTL		ctl = {.keysize = 24, .entrysize = sizeof(PreparedName)};

		pc->statements = hash_create("dtx prepared statements", 32, &ctl,
									 HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(pc->statements, name, HASH_ENTER, NULL);
	entry->doubted = false;
}

static void
queue_statement(RemoteCall *call, int i)
{
	PeerConnection *pc = call->pc;
	RemoteStatement *s = &call->statements[i];
	bool		ok;

	statement_name(s, call->names[i]);
	call->prepares[i] = false;
	call->named[i] = false;
	if (pc->unnamed_only || s->once || is_doubted(pc, call->names[i]) ||
		(!is_prepared(pc, call->names[i]) && pc->statements != NULL &&
		 hash_get_num_entries(pc->statements) >= MAX_PREPARED))
		ok = PQsendQueryParams(pc->conn, s->sql, s->nparams, s->types, s->values,
							   NULL, NULL, 0);
	else
	{
		ok = true;
		call->named[i] = true;
		if (!is_prepared(pc, call->names[i]))
		{
			call->prepares[i] = true;
			ok = PQsendPrepare(pc->conn, call->names[i], s->sql, s->nparams, s->types);
		}
		ok = ok && PQsendQueryPrepared(pc->conn, call->names[i], s->nparams, s->values,
									   NULL, NULL, 0);
	}
	if (!ok)
		call->broken = true;
}

void
remote_start(RemoteCall *call)
{
	PGconn	   *conn = call->pc->conn;

	call->pc->in_flight = true;
	call->current = 0;
	call->failed_statement = -1;
	if (PQpipelineStatus(conn) == PQ_PIPELINE_OFF && !PQenterPipelineMode(conn))
		call->broken = true;
	for (int i = 0; i < call->nstatements && !call->broken; i++)
		queue_statement(call, i);
	call->expects_prepare = call->nstatements > 0 && call->prepares[0];
	if (!call->broken && (!PQpipelineSync(conn) || PQflush(conn) < 0))
		call->broken = true;
}

/* File one result where it belongs. The call owns it from here on. */
static void
take_result(RemoteCall *call, PGresult *result)
{
	int			i = call->current;

	switch (PQresultStatus(result))
	{
		case PGRES_PIPELINE_SYNC:
			PQclear(result);
			call->done = true;
			/* too early; or a transaction is open that nobody here began, or failed */
			if ((i < call->nstatements && call->error == NULL) ||
				(PQtransactionStatus(call->pc->conn) != PQTRANS_IDLE && !call->stays_open))
				call->broken = true;
			/* in a state that is not known the connection is not used again */
			call->pc->in_flight = call->broken;
			break;
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_EMPTY_QUERY:
			if (i < call->nstatements && call->expects_prepare)
			{
				PQclear(result);
				remember_prepared(call->pc, call->names[i]);
			}
			else if (i < call->nstatements)
				call->results[i] = result;
			else
			{
				PQclear(result);
				call->broken = true;
			}
			break;
		case PGRES_FATAL_ERROR:
			if (call->error == NULL)
			{
				call->error = result;
				call->failed_statement = i;
				doubt_types(call, i);
			}
			else
				PQclear(result);
			break;
		case PGRES_PIPELINE_ABORTED:
			PQclear(result);
			break;
		default:
			/* COPY and the like have no place in a pipeline */
			PQclear(result);
			call->broken = true;
			break;
	}
}

/* An answer that nobody waits for, to what was sent and forgotten. */
static void
skip_result(RemoteCall *call, PGresult *result)
{
	switch (result == NULL ? PGRES_COMMAND_OK : PQresultStatus(result))
	{
		case PGRES_PIPELINE_SYNC:
			call->pc->trailing--;
			break;
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_FATAL_ERROR:
			break;
		default:
			/* what was to end a transaction there did not run, or worse */
			call->broken = true;
			break;
	}
	PQclear(result);
}

/* Read what there is of the answer. */
static void
read_answer(RemoteCall *call)
{
	PGconn	   *conn = call->pc->conn;
	int			nulls = 0;

	if (PQflush(conn) < 0 || !PQconsumeInput(conn))
		call->broken = true;
	while (!call->done && !call->broken && !PQisBusy(conn))
	{
		PGresult   *result = PQgetResult(conn);

		/* one stands between two results; a peer that has no more to say has lost count */
		nulls = result == NULL ? nulls + 1 : 0;
		if (nulls > 2)
			call->broken = true;
		if (call->pc->trailing > 0)
			skip_result(call, result);
		else if (result != NULL)
			take_result(call, result);
		else if (call->current >= call->nstatements)
			call->broken = PQstatus(conn) != CONNECTION_OK;
		else if (call->expects_prepare)
			call->expects_prepare = false;
		else
		{
			call->current++;
			call->expects_prepare = call->current < call->nstatements &&
				call->prepares[call->current];
		}
		if (result == NULL && PQstatus(conn) != CONNECTION_OK)
			call->broken = true;
	}
	/* nobody listens */
	connection_drop_notifications(call->pc);
}

bool
remote_advance(RemoteCall *call)
{
	Size		before;

	if (call->done || call->broken)
		return true;
	/* libpq keeps whatever comes. Most answers come in one piece, and are not measured. */
	before = call->read ? process_size() : 0;
	read_answer(call);
	if (call->read && !call->done)
	{
		call->growth += Max(process_size(), before) - before;
		if (call->growth > (Size) guc_max_answer_size * 1024)
			call->broken = call->too_large = true;
	}
	call->read = true;
	return call->done || call->broken;
}

uint32
remote_wants(RemoteCall *call)
{
	return WL_SOCKET_READABLE |
		(PQflush(call->pc->conn) > 0 ? WL_SOCKET_WRITEABLE : 0);
}

void
remote_run(RemoteCall *call, TimestampTz deadline)
{
	remote_start(call);
	remote_wait(call, deadline);
}

void
remote_wait(RemoteCall *call, TimestampTz deadline)
{
	TimestampTz until = deadline;
	bool		by_call_timeout = false;

	if (guc_call_timeout > 0)
	{
		TimestampTz limit = TimestampTzPlusMilliseconds(clock_now(), guc_call_timeout);

		if (until == 0 || limit < until)
		{
			until = limit;
			by_call_timeout = true;
		}
	}
	while (!remote_advance(call))
	{
		if (connection_wait(call->pc, remote_wants(call), until))
			continue;
		if (call->greets)
			ereport(ERROR,
					(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
					 errmsg("could not connect to server \"%s\"", call->pc->server_name),
					 errdetail("The timeout expired (dtx.connect_timeout).")));
		/* the connection is in flight: the abort closes it, which ends the call there */
		if (by_call_timeout)
			ereport(ERROR,
					(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
					 errmsg("canceling call to server \"%s\" due to dtx.call_timeout",
							call->pc->server_name)));
		ereport(ERROR,
				(errcode(ERRCODE_DTX_TIMEOUT),
				 errmsg("canceling call to server \"%s\" due to the global transaction's timeout",
						call->pc->server_name)));
	}
}

bool
remote_send_and_forget(PeerConnection *pc, const char *first, const char *second)
{
	if ((PQpipelineStatus(pc->conn) == PQ_PIPELINE_OFF && !PQenterPipelineMode(pc->conn)) ||
		(first != NULL &&
		 !PQsendQueryParams(pc->conn, first, 0, NULL, NULL, NULL, NULL, 0)) ||
		!PQsendQueryParams(pc->conn, second, 0, NULL, NULL, NULL, NULL, 0) ||
		!PQpipelineSync(pc->conn) || PQflush(pc->conn) < 0)
	{
		pc->in_flight = true;
		return false;
	}
	pc->trailing++;
	return true;
}

char *
remote_id(const char *text, int size)
{
	int			length = strlen(text);
	char	   *copy;

	if (length > size)
		length = pg_mbcliplen(text, length, size);
	copy = pnstrdup(text, length);
	if (!pg_verifymbstr(copy, length, true))
		for (char *p = copy; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	return copy;
}

/* As text without control characters, which could move a terminal's cursor, or forge a line of
 * a log; of at most size bytes. lines: those that end and indent lines stay, else an end of a
 * line, with what indents the next, is one blank: libpq's own messages have several lines. */
static char *
printable(const char *text, int size, bool lines)
{
	char	   *valid = remote_id(text, size);
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8;
	StringInfoData result;

	initStringInfo(&result);
	for (const unsigned char *p = (const unsigned char *) valid; *p; p++)
	{
		if (*p == '\n' && !lines)
		{
			appendStringInfoChar(&result, ' ');
			while (p[1] == '\t')
				p++;
		}
		else if ((*p < ' ' && !(lines && (*p == '\n' || *p == '\t'))) || *p == 0x7f)
			appendStringInfo(&result, "\\x%02x", *p);
		else if (utf8 && p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
			appendStringInfo(&result, "\\x%02x", *++p);
		else
			appendStringInfoChar(&result, *p);
	}
	pfree(valid);
	if (result.len > size)
		result.data[pg_mbcliplen(result.data, result.len, size)] = '\0';
	return result.data;
}

char *
remote_text(const char *text, int size)
{
	return printable(text, size, false);
}

char *
remote_lines(const char *text, int size)
{
	return printable(text, size, true);
}

/* Did the error end the session? */
static bool
error_is_fatal(const RemoteCall *call)
{
	const char *severity = call->error == NULL ? NULL : PQresultErrorField(call->error, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

/*
 * What an error of a peer is called here, by the SQLSTATE that it sent. Nearly all keep theirs.
 * But what tells of a connection, or of a session's transaction or statements, would be taken for
 * the client's own by its driver, its pool, or this process itself: it is DX006 where another
 * attempt may find the peer well, and HV000 where it is about what was asked of it.
 */
static int
sqlstate_of(const RemoteCall *call, const char *state)
{
	bool		sane = state != NULL && strlen(state) == 5;
	int			code,
				category;

	for (int i = 0; sane && i < 5; i++)
		sane = (state[i] >= '0' && state[i] <= '9') || (state[i] >= 'A' && state[i] <= 'Z');
	if (error_is_fatal(call))
		return ERRCODE_DTX_PEER_UNAVAILABLE;
	if (!sane || (state[0] == '0' && state[1] <= '2'))
		return ERRCODE_FDW_ERROR;
	code = MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
	category = ERRCODE_TO_CATEGORY(code);
	if (code == ERRCODE_PROTOCOL_VIOLATION || category == ERRCODE_FEATURE_NOT_SUPPORTED ||
		category == ERRCODE_INVALID_SQL_STATEMENT_NAME || category == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION ||
		code == ERRCODE_IN_FAILED_SQL_TRANSACTION || code == ERRCODE_IDLE_IN_TRANSACTION_SESSION_TIMEOUT)
		return ERRCODE_FDW_ERROR;
	if (category == ERRCODE_CONNECTION_EXCEPTION || category == ERRCODE_OPERATOR_INTERVENTION || code == ERRCODE_TOO_MANY_CONNECTIONS)
		return ERRCODE_DTX_PEER_UNAVAILABLE;
	return code;
}

static const char *
diagnostic(PGresult *result, int field)
{
	const char *value = PQresultErrorField(result, field);

	return value != NULL ? remote_lines(value, MAX_FIELD) : NULL;
}

/* PQerrorMessage ends with a newline. */
static char *
connection_message(PGconn *conn)
{
	const char *message = PQerrorMessage(conn);

	/* libpq quotes what it did not understand; and it has several lines */
	return message != NULL && message[0] != '\0' ? remote_lines(pchomp(message), 900) :
		pstrdup("server closed the connection unexpectedly");
}

/* A field that says which object an error is about, for who reports it. */
static int
pass_field(RemoteCall *call, int field)
{
	const char *value = diagnostic(call->error, field);

	return value != NULL ? err_generic_string(field, value) : 0;
}

/* The peer is there no more, or not for this call. What it said is the detail. */
static void
throw_unavailable(const char *server, const char *state, const char *primary, const char *detail, const char *context)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
			 errmsg("server \"%s\" is unavailable", server),
			 errdetail_internal("%s: %s%s%s", state != NULL ? state : "?????", primary != NULL ? primary : "",
								detail != NULL ? "\n" : "", detail != NULL ? detail : ""),
			 errhint("Whatever the call did there will be rolled back with this transaction."),
			 context ? errcontext("%s", context) : 0,
			 errcontext("call to server \"%s\"", server)));
}

void
remote_throw(RemoteCall *call)
{
	const char *server = pstrdup(call->pc->server_name);
	const char *state = call->error ? diagnostic(call->error, PG_DIAG_SQLSTATE) : NULL;
	const char *primary = call->error ? diagnostic(call->error, PG_DIAG_MESSAGE_PRIMARY) : NULL;
	const char *detail = call->error ? diagnostic(call->error, PG_DIAG_MESSAGE_DETAIL) : NULL;
	const char *hint = call->error ? diagnostic(call->error, PG_DIAG_MESSAGE_HINT) : NULL;
	const char *context = call->error ? diagnostic(call->error, PG_DIAG_CONTEXT) : NULL;
	char	   *lost = connection_message(call->pc->conn);
	int			code = sqlstate_of(call, state);

	/* strings go without a type: what to write is the user's statement, not this call */
	if (hint == NULL && state != NULL && strcmp(state, "42P18") == 0)
		hint = "Write a cast of the parameter in the statement for the server, such as $1::text.";
	if (call->too_large)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the answer of server \"%s\" is larger than dtx.max_answer_size", server),
				 errdetail("The setting is %d kB.", guc_max_answer_size),
				 errhint("Whatever the call did there will be rolled back with this transaction.")));
	if (call->error == NULL || (state == NULL && primary == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
				 errmsg("lost the connection to server \"%s\"", server),
				 errdetail_internal("%s", lost),
				 errhint("Whatever the call did there will be rolled back with this transaction.")));
	if (code == ERRCODE_DTX_PEER_UNAVAILABLE && (state == NULL || strcmp(state, unpack_sql_state(code)) != 0))
		throw_unavailable(server, state, primary, detail, context);
	ereport(ERROR,
			(errcode(code),
			 primary ? errmsg_internal("%s", primary) : errmsg("error at server \"%s\"", server),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 pass_field(call, PG_DIAG_SCHEMA_NAME),
			 pass_field(call, PG_DIAG_TABLE_NAME),
			 pass_field(call, PG_DIAG_COLUMN_NAME),
			 pass_field(call, PG_DIAG_DATATYPE_NAME),
			 /* whom a call gave way to is known to the peer alone */
			 code == ERRCODE_T_R_SERIALIZATION_FAILURE ? 0 : pass_field(call, PG_DIAG_CONSTRAINT_NAME),
			 context ? errcontext("%s", context) : 0,
			 errcontext("call to server \"%s\"%s", server,
						code == ERRCODE_FDW_ERROR && state != NULL ? psprintf(", SQLSTATE %s there", state) : "")));
}

char *
remote_error_text(RemoteCall *call)
{
	if (call->too_large)
		return pstrdup("the answer is larger than dtx.max_answer_size");
	if (call->error != NULL)
	{
		const char *state = PQresultErrorField(call->error, PG_DIAG_SQLSTATE);
		const char *primary = PQresultErrorField(call->error, PG_DIAG_MESSAGE_PRIMARY);

		if (primary != NULL)
			return psprintf("%s: %s", state ? remote_text(state, 5) : "?????", remote_text(primary, 900));
	}
	return connection_message(call->pc->conn);
}

bool
remote_session_ended(const RemoteCall *call)
{
	return call->broken || error_is_fatal(call);
}

bool
remote_failed_on_statement(RemoteCall *call)
{
	const char *state;
	int			failed = call->failed_statement;

	if (call->error == NULL || !call->done || call->broken ||
		failed < 0 || failed >= call->nstatements)
		return false;
	state = PQresultErrorField(call->error, PG_DIAG_SQLSTATE);
	if (state == NULL)
		return false;
	/* a pooler has swapped the session; one that was unnamed was not lost */
	if ((strcmp(state, "26000") == 0 || (strcmp(state, "42P05") == 0 && call->prepares[failed])) &&
		call->named[failed])
	{
		connection_use_unnamed(call->pc);
		return true;
	}
	if (strcmp(state, "0A000") == 0 && is_prepared(call->pc, call->names[failed]) &&
		PQresultErrorField(call->error, PG_DIAG_SOURCE_FUNCTION) != NULL &&
		strcmp(PQresultErrorField(call->error, PG_DIAG_SOURCE_FUNCTION), "RevalidateCachedQuery") == 0)
	{
		/* "cached plan must not change result type": the table was altered */
		call->pc->unnamed_only = true;
		return true;
	}
	return false;
}

char *
remote_gave_way(RemoteCall *call)
{
	const char *state = call->error == NULL ? NULL : PQresultErrorField(call->error, PG_DIAG_SQLSTATE);
	const char *gid;

	if (call->broken || !call->done || state == NULL || strcmp(state, "40001") != 0)
		return NULL;
	gid = PQresultErrorField(call->error, REMOTE_GAVE_WAY_TO);
	return gid == NULL ? NULL : remote_id(gid, DTX_GID_SIZE - 1);
}

void
remote_throw_swapped(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_PEER_UNAVAILABLE),
			 errmsg("prepared statements keep getting lost at a server"),
			 errhint("A pooler in between must keep a transaction's statements on one session.")));
}

bool
remote_has_rows(RemoteCall *call, int i, int rows, int columns)
{
	return call->results[i] != NULL && PQresultStatus(call->results[i]) == PGRES_TUPLES_OK &&
		PQntuples(call->results[i]) >= rows && PQnfields(call->results[i]) >= columns;
}

void
remote_free(RemoteCall *call)
{
	for (int i = 0; i < REMOTE_MAX_STATEMENTS; i++)
	{
		PQclear(call->results[i]);
		call->results[i] = NULL;
	}
	PQclear(call->error);
	call->error = NULL;
}
