/*
 * override.c
 *		Settings that dtx overrides for the rest of a transaction.
 */
#include "postgres.h"

#include "core/override.h"
#include "utils/guc.h"
#include "utils/memutils.h"

typedef struct Override
{
	MemoryContextCallback callback;
	int		   *variable;
	int			former;
} Override;

static void
restore(void *arg)
{
	Override   *override = arg;

	*override->variable = override->former;
}

void
setting_override(int *variable, int value)
{
	Override   *override = MemoryContextAllocZero(TopTransactionContext, sizeof(Override));

	override->variable = variable;
	override->former = *variable;
	override->callback.func = restore;
	override->callback.arg = override;
	/* called last registered first: the first override restores the original */
	MemoryContextRegisterResetCallback(TopTransactionContext, &override->callback);
	*variable = value;
}

void
setting_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
}
