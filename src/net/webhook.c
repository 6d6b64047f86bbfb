/*
 * webhook.c
 *		Signing and verifying HTTP notifications.
 */
#include "postgres.h"

#include <ctype.h>

#include "common/base64.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "net/webhook.h"
#include "utils/memutils.h"

static WebhookKey *
parse_secret(const char *secret, int length)
{
	int			prefix = strlen(WEBHOOK_SECRET_PREFIX);
	char		decoded[128];
	WebhookKey *key;
	int			n;

	if (length <= prefix || length - prefix > 100 || strncmp(secret, WEBHOOK_SECRET_PREFIX, prefix) != 0)
		return NULL;
	n = pg_b64_decode(secret + prefix, length - prefix, (void *) decoded, sizeof(decoded));
	if (n < 24 || n > (int) sizeof(key->key))
		return NULL;
	key = palloc(sizeof(WebhookKey));
	key->length = n;
	memcpy(key->key, decoded, n);
	return key;
}

List *
webhook_keys(const char *secrets)
{
	List	   *keys = NIL;
	const char *p = secrets;

	for (;;)
	{
		int			length;
		WebhookKey *key;

		while (isspace((unsigned char) *p))
			p++;
		if (*p == '\0')
			return keys;
		/* each costs a signature for each request */
		if (list_length(keys) == WEBHOOK_MAX_KEYS)
			return NIL;
		for (length = 0; p[length] != '\0' && !isspace((unsigned char) p[length]);)
			length++;
		key = parse_secret(p, length);
		if (key == NULL)
			return NIL;
		keys = lappend(keys, key);
		p += length;
	}
}

static void
throw_hmac(pg_hmac_ctx *context)
{
	char	   *why = pstrdup(context == NULL ? "out of memory" : pg_hmac_error(context));

	if (context != NULL)
		pg_hmac_free(context);
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not sign a notification: %s", why)));
}

void
webhook_sign(const WebhookKey *key, const char *id, int64 timestamp, const char *body, Size length,
			 char *signature)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		time[32];
	int			n;

	snprintf(time, sizeof(time), "." INT64_FORMAT ".", timestamp);
	if (context == NULL ||
		pg_hmac_init(context, key->key, key->length) < 0 ||
		pg_hmac_update(context, (const uint8 *) id, strlen(id)) < 0 ||
		pg_hmac_update(context, (const uint8 *) time, strlen(time)) < 0 ||
		pg_hmac_update(context, (const uint8 *) body, length) < 0 ||
		pg_hmac_final(context, digest, sizeof(digest)) < 0)
		throw_hmac(context);
	pg_hmac_free(context);
	strcpy(signature, "v1,");
	n = pg_b64_encode((const void *) digest, sizeof(digest), signature + 3, WEBHOOK_SIGNATURE_SIZE - 4);
	Assert(n == 44);
	signature[3 + Max(n, 0)] = '\0';
}

/* The same time for any two texts of the same length. */
static bool
same_bytes(const char *a, const char *b, int length)
{
	int			difference = 0;

	for (int i = 0; i < length; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

bool
webhook_verify(List *keys, const char *id, int64 timestamp, const char *body, Size length,
			   const char *signatures)
{
	bool		found = false;
	ListCell   *cell;

	foreach(cell, keys)
	{
		char		expected[WEBHOOK_SIGNATURE_SIZE];
		const char *p = signatures;

		webhook_sign(lfirst(cell), id, timestamp, body, length, expected);
		while (*p != '\0')
		{
			int			size = strcspn(p, " ");

			if (size == (int) strlen(expected))
				found |= same_bytes(p, expected, size);
			p += size;
			while (*p == ' ')
				p++;
		}
	}
	return found;
}

/* --- ids --- */

static bool
is_plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static void
append_encoded(StringInfo text, const char *part)
{
	for (const unsigned char *p = (const unsigned char *) part; *p; p++)
	{
		if (is_plain(*p))
			appendStringInfoChar(text, *p);
		else
			appendStringInfo(text, "%%%02X", *p);
	}
}

char *
webhook_id(const char *origin, const char *tx_no)
{
	const char *dot = strrchr(origin, '.');
	StringInfoData text;

	initStringInfo(&text);
	append_encoded(&text, dot == NULL ? origin : pnstrdup(origin, dot - origin));
	appendStringInfoChar(&text, ':');
	append_encoded(&text, dot == NULL ? "" : dot + 1);
	appendStringInfoChar(&text, ':');
	append_encoded(&text, tx_no);
	return text.data;
}

static int
hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static char *
decode(const char *part, int length)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < length; i++)
	{
		int			high,
					low;

		if (is_plain((unsigned char) part[i]))
		{
			appendStringInfoChar(&text, part[i]);
			continue;
		}
		if (part[i] != '%' || i + 2 >= length)
			return NULL;
		high = hex_digit(part[i + 1]);
		low = hex_digit(part[i + 2]);
		/* what need not be encoded is not: an id has one form */
		if (high < 0 || low < 0 || high * 16 + low == 0 || is_plain((unsigned char) (high * 16 + low)))
			return NULL;
		appendStringInfoChar(&text, (char) (high * 16 + low));
		i += 2;
	}
	return text.len == 0 ? NULL : text.data;
}

bool
webhook_id_parse(const char *id, char **origin, char **tx_no)
{
	const char *tag = strchr(id, ':');
	const char *rest = tag == NULL ? NULL : strchr(tag + 1, ':');
	char	   *name;

	if (rest == NULL || rest - tag != 9 || strspn(tag + 1, "0123456789abcdef") != 8)
		return false;
	name = decode(id, tag - id);
	*tx_no = decode(rest + 1, strlen(rest + 1));
	if (name == NULL || *tx_no == NULL)
		return false;
	*origin = psprintf("%s.%.8s", name, tag + 1);
	return true;
}
