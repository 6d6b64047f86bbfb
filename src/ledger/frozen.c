/*
 * frozen.c
 *		Transfers by TCC.
 *
 * The sender's try checks the balance and takes the amount out of it: it is
 * frozen, which dtx.frozen shows, until the confirm spends it or the cancel
 * gives it back. The receiver's try only looks; its confirm adds the amount.
 */
#include "postgres.h"

#include "core/errors.h"
#include "core/relations.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "ledger/ledger.h"
#include "miscadmin.h"
#include "tcc/tcc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_ledger_freeze);
PG_FUNCTION_INFO_V1(dtx_ledger_spend);
PG_FUNCTION_INFO_V1(dtx_ledger_unfreeze);
PG_FUNCTION_INFO_V1(dtx_ledger_check);
PG_FUNCTION_INFO_V1(dtx_ledger_add);

/* The branch whose step this is: the functions are no use on their own. */
static const char *
running_gid(void)
{
	const char *gid = tcc_running_gid();

	if (gid == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_BRANCH_STATE),
				 errmsg("this function is a step of a transfer by TCC"),
				 errhint("Call dtx_transfer with mode => 'tcc'.")));
	return gid;
}

static int64
branch_key(const char *gid_text)
{
	Gid			gid;

	gid_parse_or_error(gid_text, &gid);
	return gid_branch_key(&gid, gid_text);
}

static void
insert_frozen(const char *gid, Datum account, Datum amount)
{
	Datum		values[Natts_frozen] = {0};
	bool		nulls[Natts_frozen] = {0};

	values[Anum_frozen_branch - 1] = Int64GetDatum(branch_key(gid));
	values[Anum_frozen_gid - 1] = CStringGetTextDatum(gid);
	values[Anum_frozen_account - 1] = account;
	values[Anum_frozen_amount - 1] = amount;
	values[Anum_frozen_role - 1] = ObjectIdGetDatum(GetUserId());
	values[Anum_frozen_frozen_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	own_insert(OWN_FROZEN, values, nulls);
}

static void
delete_frozen(const char *gid)
{
	OwnScan		scan;
	HeapTuple	tuple;
	bool		found = false;

	own_scan_int8(&scan, OWN_FROZEN, OWN_FROZEN_PKEY, RowExclusiveLock, branch_key(gid));
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		if (strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_frozen_gid, NULL)), gid) != 0)
			continue;
		own_delete(&scan, tuple);
		found = true;
	}
	own_scan_end(&scan);
	note_garbage(1);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("nothing is frozen for branch \"%s\"", gid)));
}

/* dtx.ledger_freeze(account text, amount numeric): the sender's try */
Datum
dtx_ledger_freeze(PG_FUNCTION_ARGS)
{
	const char *gid = running_gid();

	ledger_move(true, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1));
	insert_frozen(gid, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

/* dtx.ledger_spend(account text, amount numeric): the sender's confirm */
Datum
dtx_ledger_spend(PG_FUNCTION_ARGS)
{
	delete_frozen(running_gid());
	PG_RETURN_VOID();
}

/* dtx.ledger_unfreeze(account text, amount numeric): the sender's cancel */
Datum
dtx_ledger_unfreeze(PG_FUNCTION_ARGS)
{
	delete_frozen(running_gid());
	ledger_move(false, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

/* dtx.ledger_check(account text, amount numeric): the receiver's try */
Datum
dtx_ledger_check(PG_FUNCTION_ARGS)
{
	(void) running_gid();
	ledger_check(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

/* dtx.ledger_add(account text, amount numeric): the receiver's confirm */
Datum
dtx_ledger_add(PG_FUNCTION_ARGS)
{
	(void) running_gid();
	ledger_move(false, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_DATUM(1));
	PG_RETURN_VOID();
}

static Jsonb *
arguments(const char *account, Datum amount)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"account\": ");
	escape_json(&json, account);
	appendStringInfo(&json, ", \"amount\": %s}", DatumGetCString(DirectFunctionCall1(numeric_out, amount)));
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

void
ledger_transfer_tcc(const char *server, const char *from, const char *to, Datum amount)
{
	(void) tcc_try_local("dtx.debit", arguments(from, amount));
	if (server == NULL)
		(void) tcc_try_local("dtx.credit", arguments(to, amount));
	else
		(void) tcc_try_at(server, "dtx.credit", arguments(to, amount));
}
