/*
 * shared.c
 *		Global transactions that services share.
 */
#include "postgres.h"

#include "core/relations.h"
#include "core/shared.h"

char
shared_state(uint64 n)
{
	OwnScan		scan;
	HeapTuple	tuple;
	char		state = 0;

	own_scan_int8(&scan, OWN_GLOBAL, OWN_GLOBAL_PKEY, AccessShareLock, (int64) n);
	if (HeapTupleIsValid(tuple = own_scan_next(&scan)))
		state = DatumGetChar(own_column(&scan, tuple, Anum_global_state, NULL));
	own_scan_end(&scan);
	return state;
}
