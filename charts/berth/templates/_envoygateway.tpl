{{/*
Envoy Gateway's documents are the files of envoy/gateway, which the tests run in Envoy: the same, with your names in place of the samples'.
A list of {file, document, yours}. What is `yours` is not rendered; NOTES.txt says what has to be in it.

Names are set field by field. Text is only replaced inside two fields, the bootstrap and the patches' jsonPath, once in each: so one of
your names is never taken for a sample's.
*/}}
{{- define "berth.gateway.documents" -}}
{{- $eg := .Values.envoyGateway -}}
{{- $gateway := $eg.gateway -}}
{{- $route := $eg.route -}}
{{- $state := printf "%s-pods.%s.svc.cluster.local" (include "berth.fullname" .) .Release.Namespace -}}
{{- $extension := $eg.extensionPolicy -}}
{{- /* What Envoy Gateway calls the filter. */ -}}
{{- $filter := printf "envoyextensionpolicy/%s/%s/wasm/%d" ($extension.namespace | default $gateway.namespace) $extension.name (int $extension.index) -}}
{{- $shared := eq $gateway.namespace $route.namespace -}}
{{- /* Where the filter is switched off, the rule `rest` hashes what the pool reads first: Envoy Gateway 1.6 knows headers and cookies. */ -}}
{{- $hash := dict "type" "Header" "header" (dict "name" "x-berth-hash-key") -}}
{{- range reverse ((($eg.session).sources) | default list) -}}
{{- if .header -}}
{{- $hash = dict "type" "Header" "header" (dict "name" .header) -}}
{{- else if .cookie -}}
{{- $hash = dict "type" "Cookie" "cookie" (dict "name" .cookie) -}}
{{- end -}}
{{- end -}}
{{- $found := list -}}
{{- range $file := list "gateway.yaml" "route.yaml" "filter.yaml" (printf "patches-%s.yaml" $eg.nameScheme) -}}
{{- $text := $.Files.Get (printf "gateway/%s" $file) | required (printf "gateway/%s is not in the chart" $file) -}}
{{- range $part := splitList "\n---\n" $text -}}
{{- /* The line's end is a part of the bootstrap's text. */ -}}
{{- $document := fromYaml (printf "%s\n" $part) -}}
{{- $kind := $document.kind -}}
{{- $metadata := $document.metadata -}}
{{- $spec := $document.spec -}}
{{- $namespace := $gateway.namespace -}}
{{- $yours := false -}}

{{- if eq $kind "GatewayClass" -}}
{{- $yours = not $eg.class.enabled -}}
{{- $_ := set $metadata "name" $eg.class.name -}}
{{- $_ := set $spec.parametersRef "name" $eg.class.name -}}
{{- $_ := set $spec.parametersRef "namespace" $eg.namespace -}}

{{- else if eq $kind "EnvoyProxy" -}}
{{- $yours = not $eg.class.enabled -}}
{{- $namespace = $eg.namespace -}}
{{- $_ := set $metadata "name" $eg.class.name -}}
{{- $_ := set $spec.bootstrap "value" ($spec.bootstrap.value | replace "berth-state.berth.svc.cluster.local" $state) -}}

{{- else if eq $kind "Gateway" -}}
{{- $yours = not $gateway.enabled -}}
{{- $_ := set $metadata "name" $gateway.name -}}
{{- $_ := set $spec "gatewayClassName" $eg.class.name -}}
{{- $listeners := list -}}
{{- range $gateway.listeners -}}
{{- $listener := dict "name" .name "port" (int .port) "protocol" "HTTP" -}}
{{- if .tlsSecret -}}
{{- $_ := set $listener "protocol" "HTTPS" -}}
{{- $_ := set $listener "tls" (dict "mode" "Terminate" "certificateRefs" (list (dict "kind" "Secret" "name" .tlsSecret))) -}}
{{- end -}}
{{- if not $shared -}}
{{- $labels := dict "kubernetes.io/metadata.name" $route.namespace -}}
{{- $_ := set $listener "allowedRoutes" (dict "namespaces" (dict "from" "Selector" "selector" (dict "matchLabels" $labels))) -}}
{{- end -}}
{{- $listeners = append $listeners $listener -}}
{{- end -}}
{{- $_ := set $spec "listeners" $listeners -}}

{{- else if eq $kind "ClientTrafficPolicy" -}}
{{- $yours = not $eg.clientTrafficPolicy.enabled -}}
{{- $_ := set (first $spec.targetRefs) "name" $gateway.name -}}
{{- if eq $eg.requestTimeout "0s" -}}
{{- $_ := unset $spec "timeout" -}}
{{- else -}}
{{- $_ := set $spec.timeout.http "requestReceivedTimeout" $eg.requestTimeout -}}
{{- end -}}

{{- else if eq $kind "HTTPRoute" -}}
{{- $yours = not $route.enabled -}}
{{- $namespace = $route.namespace -}}
{{- $_ := set $metadata "name" $route.name -}}
{{- $_ := set (first $spec.parentRefs) "name" $gateway.name -}}
{{- if not $shared -}}
{{- $_ := set (first $spec.parentRefs) "namespace" $gateway.namespace -}}
{{- end -}}
{{- with $route.hostnames -}}
{{- $_ := set $spec "hostnames" . -}}
{{- end -}}
{{- range $spec.rules -}}
{{- $_ := set (first .backendRefs) "name" $eg.nodes.service -}}
{{- $_ := set (first .backendRefs) "port" (int $eg.nodes.port) -}}
{{- end -}}

{{- else if eq $kind "BackendTrafficPolicy" -}}
{{- $namespace = $route.namespace -}}
{{- $_ := set (first $spec.targetRefs) "name" $route.name -}}
{{- $_ := set $spec.healthCheck.active.http "path" $eg.nodes.healthPath -}}
{{- if and $eg.session (eq $metadata.name "rest") -}}
{{- $_ := set $spec.loadBalancer "consistentHash" $hash -}}
{{- end -}}
{{- if eq $metadata.name "rest" -}}
{{- /* You may well have a policy of this name. */ -}}
{{- $_ := set $metadata "name" "berth-rest" -}}
{{- end -}}

{{- else if eq $kind "EnvoyExtensionPolicy" -}}
{{- $yours = not $extension.enabled -}}
{{- $_ := set $metadata "name" $extension.name -}}
{{- $_ := set (first $spec.targetRefs) "name" $gateway.name -}}
{{- $wasm := first $spec.wasm -}}
{{- $_ := set $wasm.code.image "url" $eg.filter.image -}}
{{- with $eg.filter.pullSecret -}}
{{- $_ := set $wasm.code.image "pullSecretRef" (dict "name" .) -}}
{{- end -}}
{{- $pool := first $wasm.config.pools -}}
{{- /* Envoy Gateway names clusters by the rules' indices. */ -}}
{{- $berth := printf "httproute/%s/%s/rule/%d" $route.namespace $route.name (int $route.berthRule) -}}
{{- $rest := printf "httproute/%s/%s/rule/%d" $route.namespace $route.name (int $route.restRule) -}}
{{- $_ := set $pool "cluster" $berth -}}
{{- $_ := set $pool "match" (merge (dict) $eg.match (dict "clusters" (list $rest $berth))) -}}
{{- with $eg.session -}}
{{- $_ := set $pool "session" . -}}
{{- end -}}
{{- with $eg.token -}}
{{- $_ := set $wasm.config.state "token" . -}}
{{- end -}}

{{- else if eq $kind "EnvoyPatchPolicy" -}}
{{- $_ := set $spec.targetRef "name" $gateway.name -}}
{{- $patches := list -}}
{{- range $listener := $gateway.listeners -}}
{{- $name := printf "%s/%s/%s" $gateway.namespace $gateway.name $listener.name -}}
{{- if eq $eg.nameScheme "v2" -}}
{{- $name = printf "tcp-%d" (int $listener.port) -}}
{{- end -}}
{{- range $spec.jsonPatches -}}
{{- $patch := deepCopy . -}}
{{- $path := .operation.jsonPath | replace "envoyextensionpolicy/games/berth/wasm/0" $filter -}}
{{- $_ := set $patch "name" $name -}}
{{- $_ := set $patch.operation "jsonPath" $path -}}
{{- $patches = append $patches $patch -}}
{{- end -}}
{{- end -}}
{{- $_ := set $spec "jsonPatches" $patches -}}

{{- else -}}
{{- fail (printf "gateway/%s: unknown kind %s" $file $kind) -}}
{{- end -}}

{{- if ne $kind "GatewayClass" -}}
{{- $_ := set $metadata "namespace" $namespace -}}
{{- end -}}
{{- $found = append $found (dict "file" $file "document" $document "yours" $yours) -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
