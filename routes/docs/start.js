// validatorUrl: nobody outside is asked. persistAuthorization: the tokens outlive a reload of the page.
const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  filter: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  persistAuthorization: true,
  responseInterceptor: authorize,
})

// Whoever logs in here is logged in here, and whoever logs out is logged out.
function authorize(response) {
  const tokens = { accessToken: response.body?.access_token, refreshToken: response.body?.refresh_token }
  for (const [name, value] of Object.entries(tokens)) {
    if (value) {
      const schema = ui.specSelectors.specJson().getIn(["components", "securitySchemes", name])
      ui.authActions.authorizeWithPersistOption({ [name]: { name, schema, value } })
    }
  }
  if (response.status === 204 && response.url.endsWith("/logout")) {
    ui.authActions.logoutWithPersistOption(Object.keys(tokens))
  }
  return response
}
