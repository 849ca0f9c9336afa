/* make_loose_key MODULE URI PINFILE LABEL extractable|readable: an AES-256 key on a test token with every right that a KEK needs,
 * and with CKA_EXTRACTABLE, or without CKA_SENSITIVE: what the custodian's tool does not make and the agent must refuse. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "system/token_session.h"

int main(int argc, char **argv)
{
	CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_ULONG bytes = 32;
	CK_BBOOL yes = CK_TRUE, extractable, sensitive;
	struct token_session token;
	CK_OBJECT_HANDLE key;

	if (argc != 6 || (strcmp(argv[5], "extractable") != 0 && strcmp(argv[5], "readable") != 0)) {
		fputs("usage: make_loose_key MODULE URI PINFILE LABEL extractable|readable\n", stderr);
		return 64;
	}
	extractable = strcmp(argv[5], "extractable") == 0;
	sensitive = extractable;
	CK_ATTRIBUTE template[] = {
		{ CKA_TOKEN, &yes, sizeof yes },
		{ CKA_PRIVATE, &yes, sizeof yes },
		{ CKA_SENSITIVE, &sensitive, sizeof sensitive },
		{ CKA_EXTRACTABLE, &extractable, sizeof extractable },
		{ CKA_WRAP, &yes, sizeof yes },
		{ CKA_UNWRAP, &yes, sizeof yes },
		{ CKA_VALUE_LEN, &bytes, sizeof bytes },
		{ CKA_LABEL, argv[4], strlen(argv[4]) },
	};
	token_open(&token, argv[1], argv[2], argv[3]);
	token_must("C_GenerateKey",
		   token.module->C_GenerateKey(token.session, &mechanism, template, sizeof template / sizeof template[0], &key));
	token_close(&token);
	return 0;
}
