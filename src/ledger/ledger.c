/*
 * ledger.c
 *		A table of accounts, and transfers between ledgers of two databases.
 *
 * dtx_ledger names the table and its columns, one a database. A transfer takes
 * the amount from an account here, in the local transaction, and adds it to an
 * account at the peer, in a branch.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "core/api.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/global.h"
#include "core/participant.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "msg/message.h"
#include "msg/subscription.h"
#include "net/peer.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

ENTRY_POINT(dtx_ledger, 3);
PG_FUNCTION_INFO_V1(dtx_transfer);
PG_FUNCTION_INFO_V1(dtx_ledger_credit);
PG_FUNCTION_INFO_V1(dtx_ledger_receive);

typedef struct Ledger
{
	Oid			relation;
	NameData	schema;			/* of the relation, now: the plans name it */
	NameData	table;
	NameData	account;
	NameData	balance;
	Oid			account_type;
	Oid			balance_type;
	int32		balance_typmod;
} Ledger;

/* The plans that move money, for the ledger that they were made for. */
static Ledger planned = {InvalidOid};
static Oid	planned_table = InvalidOid; /* dtx.ledger, when the ledger was read */
static bool planned_valid = false;
static SPIPlanPtr debit_plan = NULL;
static SPIPlanPtr credit_plan = NULL;
static SPIPlanPtr check_plan = NULL;

/* A column of the ledger's table, or an ERROR. */
static AttrNumber
ledger_column(Oid relation, const char *name)
{
	AttrNumber	attnum = get_attnum(relation, name);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name, get_rel_name(relation))));
	return attnum;
}

static void
read_ledger(Ledger *ledger)
{
	OwnScan		scan;
	HeapTuple	tuple;
	char	   *name;
	bool		found;
	Oid			collation;

	memset(ledger, 0, sizeof(*ledger));
	own_scan_all(&scan, OWN_LEDGER, AccessShareLock);
	found = HeapTupleIsValid(tuple = own_scan_next(&scan));
	if (found)
	{
		ledger->relation = DatumGetObjectId(own_column(&scan, tuple, Anum_ledger_relation, NULL));
		ledger->account = *DatumGetName(own_column(&scan, tuple, Anum_ledger_account, NULL));
		ledger->balance = *DatumGetName(own_column(&scan, tuple, Anum_ledger_balance, NULL));
	}
	own_scan_end(&scan);
	if (found && (name = get_rel_name(ledger->relation)) != NULL)
	{
		namestrcpy(&ledger->table, name);
		namestrcpy(&ledger->schema, get_namespace_name(get_rel_namespace(ledger->relation)));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has no ledger"),
				 errhint("Name the table of accounts: SELECT dtx_ledger('account_info').")));
	ledger->account_type = getBaseType(get_atttype(ledger->relation,
												   ledger_column(ledger->relation, NameStr(ledger->account))));
	get_atttypetypmodcoll(ledger->relation, ledger_column(ledger->relation, NameStr(ledger->balance)),
						  &ledger->balance_type, &ledger->balance_typmod, &collation);
	ledger->balance_type = getBaseTypeAndTypmod(ledger->balance_type, &ledger->balance_typmod);
}

/* The type's own equality, whatever the caller's search path has. */
static char *
equality_of(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(entry->eq_opr));
	Form_pg_operator form;
	char	   *text;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s", format_type_be(type))));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	text = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return text;
}

/*
 * Is the row the account $2? The value is cast to the type alone, without the column's
 * length or scale: a cast to char(8), or to character, which is char(1), would cut an
 * account's number down to another one's. Where the type itself does that, text is compared.
 */
static char *
account_condition(const Ledger *ledger)
{
	const char *column = quote_identifier(NameStr(ledger->account));

	if (ledger->account_type == NAMEOID || ledger->account_type == CHAROID)
		return psprintf("%s::pg_catalog.text OPERATOR(pg_catalog.=) $2", column);
	return psprintf("%s %s $2::%s", column, equality_of(ledger->account_type),
					format_type_extended(ledger->account_type, -1,
										 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

/*
 * The statement that adds to, or takes from, a balance, or ('?') only looks. It
 * returns whether the
 * balance is negative now, and whether the column can hold the amount as it is:
 * were it rounded, each side would round for itself, and money come or go.
 */
static SPIPlanPtr
make_plan(const Ledger *ledger, char sign)
{
	Oid			types[2] = {NUMERICOID, TEXTOID};
	const char *type = format_type_with_typemod(ledger->balance_type, ledger->balance_typmod);
	const char *balance = quote_identifier(NameStr(ledger->balance));
	char	   *sql;
	SPIPlanPtr	plan;

	if (sign == '?')
		sql = psprintf("SELECT %s OPERATOR(pg_catalog.<) 0, $1::%s::pg_catalog.numeric OPERATOR(pg_catalog.=) $1"
					   " FROM %s WHERE %s", balance, type,
					   quote_qualified_identifier(NameStr(ledger->schema), NameStr(ledger->table)),
					   account_condition(ledger));
	else
		sql = psprintf("UPDATE %s SET %s = %s OPERATOR(pg_catalog.%c) $1::%s WHERE %s"
				   " RETURNING %s OPERATOR(pg_catalog.<) 0,"
				   " $1::%s::pg_catalog.numeric OPERATOR(pg_catalog.=) $1",
				   quote_qualified_identifier(NameStr(ledger->schema), NameStr(ledger->table)),
				   balance, balance, sign, type,
				   account_condition(ledger), balance, type);
	plan = SPI_prepare(sql, 2, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not plan \"%s\"", sql)));
	return plan;
}

/* The ledger was named anew, or its table altered. */
static void
forget_ledger(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == planned.relation || relid == planned_table)
		planned_valid = false;
}

static void
ensure_plans(void)
{
	static bool registered = false;
	Ledger		ledger;

	if (planned_valid)
		return;
	if (!registered)
		CacheRegisterRelcacheCallback(forget_ledger, (Datum) 0);
	registered = true;
	planned_table = own_relid(OWN_LEDGER);
	read_ledger(&ledger);
	planned_valid = true;
	if (memcmp(&ledger, &planned, sizeof(ledger)) == 0)
		return;
	planned_valid = false;
	planned.relation = InvalidOid;
	if (debit_plan != NULL)
		SPI_freeplan(debit_plan);
	debit_plan = NULL;
	if (credit_plan != NULL)
		SPI_freeplan(credit_plan);
	credit_plan = NULL;
	if (check_plan != NULL)
		SPI_freeplan(check_plan);
	check_plan = NULL;
	check_plan = make_plan(&ledger, '?');
	debit_plan = make_plan(&ledger, '-');
	credit_plan = make_plan(&ledger, '+');
	planned = ledger;
	planned_valid = true;
}

/* What a plan of the ledger has found: one row, with a balance, and a column that
 * holds the amount. Returns whether the balance is negative. */
static bool
check_changed(const char *account, Datum amount)
{
	bool		isnull;
	bool		negative;

	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("account \"%s\" does not exist", account),
				 errdetail("Table \"%s\" has no such row.", NameStr(planned.table))));
	if (SPI_processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("account \"%s\" is not unique", account)));
	negative = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("account \"%s\" has no balance", account)));
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the ledger cannot hold the amount %s exactly",
						DatumGetCString(DirectFunctionCall1(numeric_out, amount))),
				 errdetail("Column \"%s\" of table \"%s\" would round it.",
						   NameStr(planned.balance), NameStr(planned.table))));
	return negative;
}

/* Change one account's balance, in an SPI connection. */
static void
change_balance(bool debit, const char *account, Datum amount)
{
	Datum		values[2] = {amount, CStringGetTextDatum(account)};
	bool		negative;

	ensure_plans();
	if (SPI_execute_plan(debit ? debit_plan : credit_plan, values, NULL, false, 0) != SPI_OK_UPDATE_RETURNING)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not change the balance of account \"%s\"", account)));
	negative = check_changed(account, amount);
	if (debit && negative)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_INSUFFICIENT_FUNDS),
				 errmsg("account \"%s\" has too small a balance", account),
				 errdetail("The amount is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, amount)))));
}

static void
check_amount(Datum amount)
{
	Numeric		value = DatumGetNumeric(amount);
	Datum		zero = DirectFunctionCall1(int4_numeric, Int32GetDatum(0));

	if (numeric_is_nan(value) || numeric_is_inf(value) ||
		!DatumGetBool(DirectFunctionCall2(numeric_gt, amount, zero)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("amount must be a positive number"),
				 errdetail("It is %s.", DatumGetCString(DirectFunctionCall1(numeric_out, amount)))));
}

void
ledger_move(bool debit, const char *account, Datum amount)
{
	check_amount(amount);
	SPI_connect();
	change_balance(debit, account, amount);
	SPI_finish();
}

void
ledger_check(const char *account, Datum amount)
{
	Datum		values[2] = {amount, CStringGetTextDatum(account)};

	check_amount(amount);
	SPI_connect();
	ensure_plans();
	if (SPI_execute_plan(check_plan, values, NULL, true, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not look account \"%s\" up", account)));
	check_changed(account, amount);
	SPI_finish();
}

static void
credit_at_peer(const char *server, const BranchMode *mode, const char *account, Datum amount)
{
	static const Oid types[2] = {TEXTOID, NUMERICOID};
	const char *values[2];
	RemoteStatement statement = {0};

	values[0] = account;
	values[1] = DatumGetCString(DirectFunctionCall1(numeric_out, amount));
	statement.sql = "SELECT dtx.ledger_credit($1, $2)";
	statement.nparams = 2;
	statement.types = types;
	statement.values = values;
	PQclear(global_run(server, mode, &statement, 0));
}

/* dtx_ledger(rel regclass, account name, balance name) */
static Datum
dtx_ledger_given(PG_FUNCTION_ARGS)
{
	Oid			relation = PG_GETARG_OID(0);
	Name		account = PG_GETARG_NAME(1);
	Name		balance = PG_GETARG_NAME(2);
	Datum		values[Natts_ledger] = {0};
	bool		nulls[Natts_ledger] = {0};
	Relation	rel;
	Oid			type;
	OwnScan		scan;
	HeapTuple	tuple;

	shmem_require();
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot name a ledger inside a branch")));
	rel = open_named(relation, AccessShareLock);
	if (!dtx_table_ownercheck(relation, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(rel));
	if (rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel))));
	table_close(rel, NoLock);
	(void) ledger_column(relation, NameStr(*account));
	type = getBaseType(get_atttype(relation, ledger_column(relation, NameStr(*balance))));
	if (type != NUMERICOID && type != INT8OID && type != INT4OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is not a number", NameStr(*balance)),
				 errhint("Keep balances in a column of type numeric.")));

	own_scan_all(&scan, OWN_LEDGER, ShareRowExclusiveLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		Oid			former = DatumGetObjectId(own_column(&scan, tuple, Anum_ledger_relation, NULL));

		/* who is granted this does not take over another's ledger */
		if (get_rel_name(former) != NULL && !dtx_table_ownercheck(former, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(former));
		own_delete(&scan, tuple);
	}
	own_scan_end(&scan);
	values[Anum_ledger_relation - 1] = ObjectIdGetDatum(relation);
	values[Anum_ledger_account - 1] = NameGetDatum(account);
	values[Anum_ledger_balance - 1] = NameGetDatum(balance);
	own_insert(OWN_LEDGER, values, nulls);
	CacheInvalidateRelcacheByRelid(own_relid(OWN_LEDGER));
	PG_RETURN_VOID();
}

static JsonbValue
json_text(const char *text)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = (char *) text;
	v.val.string.len = strlen(text);
	return v;
}

static void
push_member(DtxJsonb *state, const char *name, JsonbValue *value)
{
	JsonbValue	key = json_text(name);

	dtx_push_jsonb(state, WJB_KEY, &key);
	dtx_push_jsonb(state, WJB_VALUE, value);
}

/* {"from": text, "to": text, "amount": number} */
static Jsonb *
transfer_payload(const char *from, const char *to, Datum amount)
{
	DtxJsonb	state = {0};
	JsonbValue	from_value = json_text(from);
	JsonbValue	to_value = json_text(to);
	JsonbValue	amount_value = {.type = jbvNumeric};

	amount_value.val.numeric = DatumGetNumeric(amount);
	dtx_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	push_member(&state, "from", &from_value);
	push_member(&state, "to", &to_value);
	push_member(&state, "amount", &amount_value);
	dtx_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/*
 * Take the amount here, and have a message credit it at the server, whose id is
 * returned. Each (server, role) has a topic and a subscription.
 */
static int64
send_by_message(const char *server_name, const char *from, const char *to, Datum amount)
{
	Oid			role = GetUserId();
	Oid			server;
	Message		message = {0};
	char	   *topic;

	if (server_name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a transfer by message needs a server"),
				 errhint("Within this database both accounts change in one transaction, in any other mode.")));
	server = peer_server_by_name(server_name, role);
	topic = psprintf(OWN_TOPIC "transfer.%u.%u", server, role);
	subscription_ensure(psprintf("transfers to %s as %s", server_name, GetUserNameFromId(role, false)),
						topic, server, "dtx.ledger_receive(jsonb)");
	ledger_move(true, from, amount);
	message.topic = topic;
	message.key = cstring_to_text(to);
	message.payload = transfer_payload(from, to, amount);
	return message_publish(&message, 0);
}

/* dtx_transfer(server name, from_account text, to_account text, amount numeric, mode text) */
Datum
dtx_transfer(PG_FUNCTION_ARGS)
{
	const BranchMode *mode;
	const char *mode_name;
	char	   *from,
			   *to;
	char		xid[DTX_GID_SIZE];

	for (int i = 1; i <= 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("accounts, amount and mode of a transfer must not be null")));
	from = text_to_cstring(PG_GETARG_TEXT_PP(1));
	to = text_to_cstring(PG_GETARG_TEXT_PP(2));
	check_amount(PG_GETARG_DATUM(3));
	if (PG_ARGISNULL(0) && strcmp(from, to) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot transfer from account \"%s\" to itself", from)));
	mode_name = text_to_cstring(PG_GETARG_TEXT_PP(4));
	if (strcmp(mode_name, "message") == 0)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf(INT64_FORMAT,
												  send_by_message(PG_ARGISNULL(0) ? NULL : NameStr(*PG_GETARG_NAME(0)),
																  from, to, PG_GETARG_DATUM(3)))));
	mode = mode_by_name(mode_name);
	global_ensure();

	if (mode->runs_user_code)
		ledger_transfer_tcc(PG_ARGISNULL(0) ? NULL : NameStr(*PG_GETARG_NAME(0)), from, to,
							PG_GETARG_DATUM(3));
	else if (PG_ARGISNULL(0))
	{
		ledger_move(true, from, PG_GETARG_DATUM(3));
		ledger_move(false, to, PG_GETARG_DATUM(3));
	}
	else
	{
		ledger_move(true, from, PG_GETARG_DATUM(3));
		credit_at_peer(NameStr(*PG_GETARG_NAME(0)), mode, to, PG_GETARG_DATUM(3));
	}
	xid_format(global_current(), xid);
	PG_RETURN_TEXT_P(cstring_to_text(xid));
}

/* dtx.ledger_receive(payload jsonb): the handler of transfers by message */
Datum
dtx_ledger_receive(PG_FUNCTION_ARGS)
{
	Jsonb	   *payload = PG_GETARG_JSONB_P(0);
	JsonbValue	to_room,
				amount_room;
	JsonbValue *to = NULL,
			   *amount = NULL;
	char	   *account;
	MemoryContext context = CurrentMemoryContext;

	if (JB_ROOT_IS_OBJECT(payload))
	{
		to = getKeyJsonValueFromContainer(&payload->root, "to", 2, &to_room);
		amount = getKeyJsonValueFromContainer(&payload->root, "amount", 6, &amount_room);
	}
	if (to == NULL || to->type != jbvString || amount == NULL || amount->type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_REFUSED),
				 errmsg("message is not a transfer")));
	account = pnstrdup(to->val.string.val, to->val.string.len);
	PG_TRY();
	{
		ledger_move(false, account, NumericGetDatum(amount->val.numeric));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_NO_DATA_FOUND)
			PG_RE_THROW();
		FlushErrorState();
		/* to try again would not help */
		ereport(ERROR,
				(errcode(ERRCODE_DTX_REFUSED),
				 errmsg_internal("%s", error->message)));
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* dtx.ledger_credit(account text, amount numeric): the peer's part of a transfer */
Datum
dtx_ledger_credit(PG_FUNCTION_ARGS)
{
	ledger_move(false, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}
