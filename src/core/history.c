/*
 * history.c
 *		dtx.history: a row a batch, with an array for each column.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "core/history.h"
#include "core/relations.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

void
history_insert(const char *node, char decision, const HistoryEntry *entries, int count)
{
	Datum		values[Natts_history] = {0};
	bool		nulls[Natts_history] = {0};
	Datum	   *columns[7];
	uint64		min_n = PG_UINT64_MAX,
				max_n = 0;

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc0(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		const HistoryEntry *entry = &entries[i];

		columns[0][i] = Int64GetDatum((int64) entry->n);
		columns[1][i] = Int64GetDatum((int64) entry->r);
		columns[2][i] = Int32GetDatum((int32) entry->b);
		columns[3][i] = ObjectIdGetDatum(entry->server);
		columns[4][i] = ObjectIdGetDatum(entry->role);
		columns[5][i] = CharGetDatum(entry->mode);
		if (entry->parent != NULL)
			columns[6][i] = CStringGetTextDatum(entry->parent);
		min_n = Min(min_n, entry->n);
		max_n = Max(max_n, entry->n);
	}
	values[Anum_history_settled_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[Anum_history_decision - 1] = CharGetDatum(decision);
	values[Anum_history_node - 1] = CStringGetTextDatum(node);
	values[Anum_history_min_n - 1] = Int64GetDatum((int64) min_n);
	values[Anum_history_max_n - 1] = Int64GetDatum((int64) max_n);
	values[Anum_history_n - 1] = PointerGetDatum(construct_array(columns[0], count, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[Anum_history_r - 1] = PointerGetDatum(construct_array(columns[1], count, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[Anum_history_b - 1] = PointerGetDatum(construct_array(columns[2], count, INT4OID, 4, true, TYPALIGN_INT));
	values[Anum_history_server - 1] = PointerGetDatum(construct_array(columns[3], count, OIDOID, 4, true, TYPALIGN_INT));
	values[Anum_history_role - 1] = PointerGetDatum(construct_array(columns[4], count, OIDOID, 4, true, TYPALIGN_INT));
	values[Anum_history_mode - 1] = PointerGetDatum(construct_array(columns[5], count, CHAROID, 1, true, TYPALIGN_CHAR));
	nulls[Anum_history_parent - 1] = entries[0].parent == NULL;
	if (entries[0].parent != NULL)
		values[Anum_history_parent - 1] = PointerGetDatum(construct_array(columns[6], count, TEXTOID, -1, false, TYPALIGN_INT));
	own_insert(OWN_HISTORY, values, nulls);
}

char
history_decision(const char *node, uint64 n, uint64 r, uint32 b)
{
	OwnScan		scan;
	HeapTuple	tuple;
	char		decision = 0;

	own_scan_all(&scan, OWN_HISTORY, AccessShareLock);
	while (decision != 'c' && HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		ArrayType  *ns,
				   *rs,
				   *bs;
		int			count;

		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_min_n, NULL)) > n ||
			(uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_max_n, NULL)) < n ||
			(node != NULL &&
			 strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_history_node, NULL)), node) != 0))
			continue;
		ns = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_n, NULL));
		rs = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_r, NULL));
		bs = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_b, NULL));
		count = ArrayGetNItems(ARR_NDIM(ns), ARR_DIMS(ns));
		for (int i = 0; i < count; i++)
			if (((uint64 *) ARR_DATA_PTR(ns))[i] == n &&
				((uint64 *) ARR_DATA_PTR(rs))[i] == r &&
				(b == 0 || ((uint32 *) ARR_DATA_PTR(bs))[i] == b))
			{
				char		found = DatumGetChar(own_column(&scan, tuple, Anum_history_decision, NULL));

				/* the commit is the transaction's word, whatever a savepoint
				 * took back */
				if (decision != 'c')
					decision = found;
			}
	}
	own_scan_end(&scan);
	return decision;
}

List *
history_roles(const char *node, uint64 n, uint64 r)
{
	OwnScan		scan;
	HeapTuple	tuple;
	List	   *roles = NIL;

	own_scan_all(&scan, OWN_HISTORY, AccessShareLock);
	while (HeapTupleIsValid(tuple = own_scan_next(&scan)))
	{
		ArrayType  *ns,
				   *rs,
				   *owners;
		int			count;

		if ((uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_min_n, NULL)) > n ||
			(uint64) DatumGetInt64(own_column(&scan, tuple, Anum_history_max_n, NULL)) < n ||
			strcmp(TextDatumGetCString(own_column(&scan, tuple, Anum_history_node, NULL)), node) != 0)
			continue;
		ns = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_n, NULL));
		rs = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_r, NULL));
		owners = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_history_role, NULL));
		count = ArrayGetNItems(ARR_NDIM(ns), ARR_DIMS(ns));
		for (int i = 0; i < count; i++)
			if (((uint64 *) ARR_DATA_PTR(ns))[i] == n && ((uint64 *) ARR_DATA_PTR(rs))[i] == r)
				roles = list_append_unique_oid(roles, ((Oid *) ARR_DATA_PTR(owners))[i]);
	}
	own_scan_end(&scan);
	return roles;
}
