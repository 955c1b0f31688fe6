/*
 * The peer of bench/xts.ts: AES-256-XTS over consecutive 4 KiB data units, as a C program would write
 * it over libcrypto's EVP. Built as a shared object with its EVP_* left undefined and loaded into the
 * node process, so that it runs on the very libcrypto that the engine calls.
 *
 * xts_decrypt: EVP_CipherInit_ex and EVP_CipherUpdate a unit, both checked: the documented way.
 * xts_decrypt_live_iv: the engine's own trick in C, EVP_Cipher on an IV written in place: what is left
 * is then the price of JavaScript and of FFI alone.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct evp_cipher_st EVP_CIPHER;

EVP_CIPHER *EVP_CIPHER_fetch(void *library, const char *name, const char *properties);
void EVP_CIPHER_free(EVP_CIPHER *cipher);
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *context);
int EVP_CipherInit_ex(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, void *engine,
                      const unsigned char *key, const unsigned char *iv, int encrypt);
int EVP_CipherUpdate(EVP_CIPHER_CTX *context, unsigned char *out, int *out_bytes,
                     const unsigned char *in, int in_bytes);
int EVP_Cipher(EVP_CIPHER_CTX *context, unsigned char *out, const unsigned char *in,
               unsigned int in_bytes);
unsigned char *EVP_CIPHER_CTX_iv_noconst(EVP_CIPHER_CTX *context);

enum { UNIT_BYTES = 4096 };

void *xts_open(const unsigned char *key)
{
    unsigned char iv[16] = {0};
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (cipher == NULL || context == NULL ||
        EVP_CipherInit_ex(context, cipher, NULL, key, iv, 0) != 1) {
        EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    EVP_CIPHER_free(cipher);
    return context;
}

void xts_close(void *context)
{
    EVP_CIPHER_CTX_free(context);
}

/* `bytes` at `in`, from data unit `unit` on, `times` over. 0, or -1 where libcrypto failed. */
int xts_decrypt(void *context, unsigned char *out, const unsigned char *in, uint64_t unit,
                size_t bytes, uint32_t times)
{
    for (uint32_t round = 0; round < times; round++) {
        uint64_t number = unit;
        for (size_t at = 0; at < bytes; at += UNIT_BYTES, number++) {
            unsigned char iv[16] = {0};
            int size = (int)(bytes - at < UNIT_BYTES ? bytes - at : UNIT_BYTES), done = 0;
            memcpy(iv, &number, sizeof number);
            if (EVP_CipherInit_ex(context, NULL, NULL, NULL, iv, -1) != 1 ||
                EVP_CipherUpdate(context, out + at, &done, in + at, size) != 1 || done != size)
                return -1;
        }
    }
    return 0;
}

int xts_decrypt_live_iv(void *context, unsigned char *out, const unsigned char *in, uint64_t unit,
                        size_t bytes, uint32_t times)
{
    unsigned char *iv = EVP_CIPHER_CTX_iv_noconst(context);
    memset(iv, 0, 16);
    for (uint32_t round = 0; round < times; round++) {
        uint64_t number = unit;
        for (size_t at = 0; at < bytes; at += UNIT_BYTES, number++) {
            int size = (int)(bytes - at < UNIT_BYTES ? bytes - at : UNIT_BYTES);
            memcpy(iv, &number, sizeof number);
            if (EVP_Cipher(context, out + at, in + at, (unsigned int)size) != size)
                return -1;
        }
    }
    return 0;
}

void copy_loop(unsigned char *out, const unsigned char *in, size_t bytes, uint32_t times)
{
    for (uint32_t round = 0; round < times; round++) {
        memcpy(out, in, bytes);
        __asm__ volatile("" ::"r"(out) : "memory");
    }
}
