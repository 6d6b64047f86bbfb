/*
 * tcc.h
 *		TCC: try, confirm, cancel.
 */
#ifndef DTX_TCC_H
#define DTX_TCC_H

#include "core/global.h"
#include "utils/jsonb.h"

/* Register the mode; at load time only. */
extern void tcc_register(void);

/* The object access hook's part: ERROR 55006 when branches in doubt need a
 * function that is about to be dropped. */
extern void tcc_guard_drop(Oid class_id, Oid object_id);

/*
 * The branch whose try, confirm or cancel is running in this session, by its
 * gid; NULL: none. For functions of dtx's own.
 */
extern const char *tcc_running_gid(void);

/* --- actions: action.c --- */

typedef struct TccAction
{
	char	   *name;
	Oid			owner;
	Oid			functions[3];	/* by TccStep; InvalidOid: nothing to do */
	int			nargs;
	char	  **names;
	Oid		   *types;
} TccAction;

typedef enum TccStep
{
	TCC_TRY,
	TCC_CONFIRM,
	TCC_CANCEL
} TccStep;

/* Look an action up, palloc'd. ERROR 42704 when there is none. */
extern TccAction *action_lookup(const char *name);

/* The arguments' names and types of a function, into the action. ERROR 42P13
 * for arguments without a name, or other than IN. */
extern void action_read_arguments(TccAction *action, Oid function);

/* Keep an action, in place of one of that name. ERROR 42501 for another's. */
extern void action_store(const TccAction *action);
extern void action_remove(const char *name);

/* --- calling the functions: call.c --- */

/*
 * Call a function with arguments from a JSON object, matched by name. The
 * result is NULL for void and NULL. ERROR 22023 names the argument that is
 * missing, unknown or of the wrong type; 42501 without EXECUTE.
 */
extern Jsonb *tcc_call(const char *action_name, Oid function, const char *gid, Jsonb *args);

/* Check the arguments against an action's. */
extern void tcc_check_arguments(const TccAction *action, Jsonb *args);

/* --- the logs: tcc.c --- */

/* The try of the current branch. */
extern Jsonb *tcc_try_here(const char *action_name, Jsonb *args);

/* A try in this very database: in the local transaction, or in the branch that
 * it is. */
extern Jsonb *tcc_try_local(const char *action_name, Jsonb *args);

/* A try at a server. NULL: it returned nothing. */
extern Jsonb *tcc_try_at(const char *server, const char *action_name, Jsonb *args);

#endif							/* DTX_TCC_H */
