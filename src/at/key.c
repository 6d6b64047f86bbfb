/*
 * key.c
 *		Keys and shapes of attached relations, cached.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "at/fit.h"
#include "at/key.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "core/compat.h"
#include "core/readable.h"
#include "core/relations.h"
#include "lib/stringinfo.h"
#include "parser/parse_func.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/reltrigger.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static HTAB *relations = NULL;

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	AttachedRelation *ar;

	fit_note_change(relid);
	if (OidIsValid(relid))
	{
		ar = hash_search(relations, &relid, HASH_FIND, NULL);
		if (ar != NULL)
			ar->valid = false;
		return;
	}
	hash_seq_init(&status, relations);
	while ((ar = hash_seq_search(&status)) != NULL)
		ar->valid = false;
}

static Oid
get_index_am(Oid index)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	Oid			am = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		am = ((Form_pg_class) GETSTRUCT(tuple))->relam;
		ReleaseSysCache(tuple);
	}
	return am;
}

Oid
key_index_of(Relation rel)
{
	Oid			index = RelationGetReplicaIndex(rel);

	if (!OidIsValid(index))
		index = dtx_primary_key_index(rel);
	/* equality is the operator class's third strategy in a B-tree only */
	return OidIsValid(index) && get_index_am(index) == BTREE_AM_OID ? index : InvalidOid;
}

bool
has_capture_trigger(Relation rel)
{
	return capture_trigger(rel) != NULL;
}

/* A copy: what the relation cache has is replaced whenever an invalidation arrives. */
Trigger *
capture_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	Trigger    *found = NULL;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgenabled == TRIGGER_FIRES_ALWAYS && strcmp(trigger->tgname, "dtx_capture") == 0)
		{
			found = palloc(sizeof(Trigger));
			*found = *trigger;
			/* what else it points to stays with the cache */
			found->tgname = "dtx_capture";
			found->tgattr = NULL;
			found->tgargs = NULL;
			found->tgqual = found->tgoldtable = found->tgnewtable = NULL;
			break;
		}
	}
	/* the function is the extension's: its name in schema dtx tells it */
	return found != NULL && OidIsValid(own_schema()) && get_func_namespace(found->tgfoid) == own_schema() ?
		found : NULL;
}

static int32
shape_of(TupleDesc desc)
{
	uint32		h = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		h = hash_combine(h, hash_bytes_uint32(att->attnum));
		h = hash_combine(h, hash_bytes_uint32(att->atttypid));
		h = hash_combine(h, hash_bytes_uint32(att->atttypmod));
		h = hash_combine(h, hash_bytes((unsigned char *) NameStr(att->attname),
									   strlen(NameStr(att->attname))));
	}
	return (int32) h;
}

/*
 * Has each value of a type a hash, the same as long as it is stored? The operator
 * class of an array, a range or a row type has one that fails where an element's type
 * has none. That of a row type changes when an attribute is added.
 */
static bool
type_is_hashable(Oid type)
{
	Oid			element;

	type = getBaseType(type);
	element = get_element_type(type);
	if (!OidIsValid(element))
		element = get_range_subtype(type);
	if (!OidIsValid(element))
		element = get_multirange_range(type);
	if (OidIsValid(element))
		return type_is_hashable(element);
	return get_typtype(type) != TYPTYPE_COMPOSITE && type != RECORDOID &&
		OidIsValid(lookup_type_cache(type, TYPECACHE_HASH_PROC)->hash_proc);
}

static void
build_keys(AttachedRelation *ar, Relation rel)
{
	Relation	index = index_open(ar->key_index, AccessShareLock);

	ar->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < ar->nkeys; i++)
	{
		KeyColumn  *key = &ar->keys[i];
		Oid			type = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], type, type,
												BTEqualStrategyNumber);
		RegProcedure left,
					right;

		key->attnum = index->rd_index->indkey.values[i];
		key->collation = index->rd_indcollation[i];
		fmgr_info_cxt(get_opcode(equal), &key->equal, ar->context);
		fmgr_info_cxt(get_opfamily_proc(index->rd_opfamily[i], type, type, BTORDER_PROC),
					  &key->order, ar->context);
		/* a hash that agrees with this very operator, or none */
		key->hashable = get_op_hash_functions(equal, &left, &right) &&
			(!IsPolymorphicType(type) || type_is_hashable(TupleDescAttr(RelationGetDescr(rel), key->attnum - 1)->atttypid)) &&
			type != RECORDOID;
		if (key->hashable)
			fmgr_info_cxt(left, &key->hash, ar->context);
	}
	index_close(index, AccessShareLock);
}

/* There are few places for callbacks in a server: it is one for all who ask. */
void
key_watch_relations(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(AttachedRelation)};

	if (relations != NULL)
		return;
	relations = hash_create("dtx attached relations", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
}

AttachedRelation *
attached_relation(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	AttachedRelation *ar;
	MemoryContext context;
	bool		found;

	key_watch_relations();
	ar = hash_search(relations, &relid, HASH_ENTER, &found);
	if (found && ar->valid)
		return ar;

	context = found ? ar->context : NULL;
	memset(ar, 0, sizeof(*ar));
	ar->relid = relid;
	ar->context = context;
	if (ar->context == NULL)
		ar->context = AllocSetContextCreate(TopMemoryContext, "dtx attached relation",
											ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(ar->context);
	ar->attached = has_capture_trigger(rel);
	ar->key_index = key_index_of(rel);
	ar->shape = shape_of(RelationGetDescr(rel));
	if (OidIsValid(ar->key_index))
		build_keys(ar, rel);
	ar->valid = true;
	return ar;
}

int64
key_hash(AttachedRelation *ar, HeapTuple tuple, TupleDesc desc)
{
	uint64		h = hash_bytes_uint32_extended(ar->relid, 0);

	for (int i = 0; i < ar->nkeys; i++)
	{
		KeyColumn  *key = &ar->keys[i];
		bool		isnull;
		Datum		value = heap_getattr(tuple, key->attnum, desc, &isnull);

		if (key->hashable && !isnull)
			h = hash_combine64(h, hash_bytes_uint32_extended(
								   DatumGetUInt32(FunctionCall1Coll(&key->hash, key->collation, value)), 0));
	}
	return (int64) h;
}

bool
key_equal(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc)
{
	for (int i = 0; i < ar->nkeys; i++)
	{
		KeyColumn  *key = &ar->keys[i];
		bool		anull,
					bnull;
		Datum		avalue = heap_getattr(a, key->attnum, desc, &anull);
		Datum		bvalue = heap_getattr(b, key->attnum, desc, &bnull);

		if (anull || bnull ||
			!DatumGetBool(FunctionCall2Coll(&key->equal, key->collation, avalue, bvalue)))
			return false;
	}
	return true;
}

int
key_compare(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc)
{
	for (int i = 0; i < ar->nkeys; i++)
	{
		KeyColumn  *key = &ar->keys[i];
		bool		anull,
					bnull;
		Datum		avalue = heap_getattr(a, key->attnum, desc, &anull);
		Datum		bvalue = heap_getattr(b, key->attnum, desc, &bnull);
		int			order = anull - bnull;

		if (!anull && !bnull)
			order = DatumGetInt32(FunctionCall2Coll(&key->order, key->collation, avalue, bvalue));
		if (order != 0)
			return order;
	}
	return 0;
}

bool
key_identical(AttachedRelation *ar, HeapTuple a, HeapTuple b, TupleDesc desc)
{
	for (int i = 0; i < ar->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, ar->keys[i].attnum - 1);
		bool		anull,
					bnull;
		Datum		avalue = heap_getattr(a, att->attnum, desc, &anull);
		Datum		bvalue = heap_getattr(b, att->attnum, desc, &bnull);

		if (anull || bnull ||
			!datum_image_eq(avalue, bvalue, att->attbyval, att->attlen))
			return false;
	}
	return true;
}

char *
key_describe(AttachedRelation *ar, HeapTuple tuple, TupleDesc desc, Oid role)
{
	bool		readable = true;
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < ar->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, ar->keys[i].attnum - 1);
		bool		isnull;
		Datum		value = heap_getattr(tuple, att->attnum, desc, &isnull);
		Oid			output;
		bool		is_varlena;

		readable &= column_is_readable(ar->relid, att->attnum, role);
		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", NameStr(att->attname));
		appendStringInfo(&values, "%s%s", i > 0 ? ", " : "",
						 !readable ? "" : isnull ? "null" : OidOutputFunctionCall(output, value));
	}
	return psprintf("(%s)=(%s)", names.data, readable ? values.data : "...");
}
