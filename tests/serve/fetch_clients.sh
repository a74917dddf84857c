#!/usr/bin/env bash
# Installs what the service's tests talk to it with, into build/npm/clients/: the official clients of OpenAI, Ollama and
# Anthropic, and playwright-core, which drives the system's Chromium. Does nothing where they are already there. Needs npm.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly OPENAI=7.57.0
readonly OLLAMA=0.6.4
readonly ANTHROPIC=1.13.0
readonly PLAYWRIGHT=1.65.1
readonly FOLDER=build/npm/clients
readonly STAMP="$FOLDER/installed-$OPENAI-$OLLAMA-$ANTHROPIC-$PLAYWRIGHT"

if [[ -e $STAMP ]]; then exit 0; fi
if ! command -v npm > /dev/null; then
  echo "fetch_clients.sh: npm is missing; install the packages nodejs and npm, then run this again" >&2
  exit 1
fi
mkdir -p "$FOLDER"
echo '{"private": true}' > "$FOLDER/package.json"
npm install --prefix "$FOLDER" --ignore-scripts --no-audit --no-fund --loglevel=error \
  "openai@$OPENAI" "ollama@$OLLAMA" "@anthropic-ai/sdk@$ANTHROPIC" "playwright-core@$PLAYWRIGHT"
touch "$STAMP"
